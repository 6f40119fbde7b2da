module github.com/go-blockmirror/blockmirror/examples

go 1.26

require (
	github.com/go-blockmirror/blockmirror v0.0.0
	golang.org/x/sys v0.49.0
)

replace github.com/go-blockmirror/blockmirror => ../

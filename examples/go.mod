module github.com/go-blockmirror/blockmirror/examples

go 1.26.0

require (
	github.com/go-blockmirror/blockmirror v0.0.0
	github.com/stretchr/testify v1.12.1
	go.uber.org/goleak v1.3.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/klauspost/crc32 v1.3.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/go-blockmirror/blockmirror => ../

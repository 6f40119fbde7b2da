// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// report prints what happens, a line for each step, and at the end a table of what
// was checked.
type report struct {
	out      io.Writer
	terminal bool // lines can be overwritten
	last     time.Time
	rows     []row
	bar      bool // the cursor stands behind a progress bar
	shown    int  // quarters of the bar that were printed where there is no terminal
}

// row is one line of the table.
type row struct {
	what, expected, got string
	ok                  bool
}

func newReport(out io.Writer, terminal bool) *report {
	return &report{out: out, terminal: terminal, last: time.Now()}
}

// say prints a line that is no step.
func (r *report) say(format string, args ...any) {
	r.endBar()
	fmt.Fprintf(r.out, format+"\n", args...)
}

// done prints a step that is done, with the seconds since the one before.
func (r *report) done(format string, args ...any) {
	r.endBar()
	fmt.Fprintf(r.out, " ✓ %5.2f s  %s\n", time.Since(r.last).Seconds(), fmt.Sprintf(format, args...))
	r.last = time.Now()
}

// failed prints that the story ends here.
func (r *report) failed() {
	r.endBar()
	fmt.Fprintf(r.out, " ✗ %5.2f s\n", time.Since(r.last).Seconds())
}

// expect adds a row to the table.
func (r *report) expect(what string, expected, got any, ok bool) {
	r.rows = append(r.rows, row{what, fmt.Sprint(expected), fmt.Sprint(got), ok})
}

// equal is expect for what has to be equal.
func (r *report) equal(what string, expected, got any) {
	r.expect(what, expected, got, expected == got)
}

// between is expect for a number within bounds.
func (r *report) between(what string, low, high, got int64) {
	r.expect(what, fmt.Sprintf("%d to %d", low, high), got, low <= got && got <= high)
}

// progress draws how far a resync is. Without a terminal it prints four lines at most.
func (r *report) progress(st Status) {
	if quarter := int(st.Percent / 25); !r.terminal {
		if quarter <= r.shown {
			return
		}
		r.shown = quarter
	}
	const width = 30
	full := int(st.Percent * width / 100)
	line := fmt.Sprintf("           [%s%s] %5.1f %%  %s/s  %s left", strings.Repeat("█", full), strings.Repeat("·", width-full),
		st.Percent, mib(st.Rate), st.TimeLeft.Round(time.Second))
	if !r.terminal {
		fmt.Fprintln(r.out, line)
		return
	}
	fmt.Fprintf(r.out, "\r%s\x1b[K", line)
	r.bar = true
}

// endBar makes room for the next line.
func (r *report) endBar() {
	if r.bar {
		fmt.Fprintln(r.out)
	}
	r.bar, r.shown = false, 0
}

// table prints what was checked and reports whether all is as expected.
func (r *report) table() bool {
	if len(r.rows) == 0 {
		return true
	}
	var what, expected, got int
	for _, row := range r.rows {
		what, expected, got = max(what, len([]rune(row.what))), max(expected, len(row.expected)), max(got, len(row.got))
	}
	line := func(a, b, c, d string) { fmt.Fprintf(r.out, "  %-*s  %*s  %*s  %s\n", what, a, expected, b, got, c, d) }
	fmt.Fprintln(r.out)
	expected, got = max(expected, len("expected")), max(got, len("got"))
	line("what", "expected", "got", "ok")
	all := true
	for _, row := range r.rows {
		mark := "✓"
		if !row.ok {
			mark, all = "✗", false
		}
		line(row.what, row.expected, row.got, mark)
	}
	return all
}

// mib writes a number of bytes for people.
func mib(bytes int64) string {
	if bytes%(1<<20) == 0 || bytes >= 10<<20 {
		return fmt.Sprintf("%d MiB", (bytes+1<<19)>>20)
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}

// isTerminal reports whether a person looks at the file.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

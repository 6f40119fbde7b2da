// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kerneldrbd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Mark is a place in the kernel's log, of Guest.Mark. The zero value is the beginning
// of the first boot.
type Mark int

// kernelLog collects the lines of the guest's kernel log over all boots.
type kernelLog struct {
	mu      sync.Mutex
	lines   []string
	changed chan struct{} // closed and replaced when there are more lines
	marks   int
	closed  bool
}

func newKernelLog() *kernelLog { return &kernelLog{changed: make(chan struct{})} }

func (l *kernelLog) note(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	close(l.changed)
	l.changed = make(chan struct{})
}

// read takes the records of /dev/kmsg until the stream ends: a line
// "priority,number,time,flags;text", and lines of details that begin with a space.
func (l *kernelLog) read(r io.Reader) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		if strings.HasPrefix(s.Text(), " ") {
			continue
		}
		if _, text, ok := strings.Cut(s.Text(), ";"); ok {
			l.note(text)
		}
	}
}

func (l *kernelLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.changed)
	}
}

// news is closed when there are more lines than now.
func (l *kernelLog) news() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// wait returns the index after the first line from a place on that match accepts.
func (l *kernelLog) wait(ctx context.Context, from int, match func(string) bool) (int, error) {
	for {
		l.mu.Lock()
		changed, lines, closed := l.changed, l.lines[min(from, len(l.lines)):], l.closed
		l.mu.Unlock()
		if i := slices.IndexFunc(lines, match); i >= 0 {
			return from + i + 1, nil
		}
		if closed {
			return 0, ErrDown
		}
		from += len(lines)
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Mark writes a line into the kernel's log and returns its place. When it returns,
// everything that the kernel had logged before has arrived here.
func (g *Guest) Mark(ctx context.Context) (Mark, error) {
	g.log.mu.Lock()
	g.log.marks++
	line, from := fmt.Sprintf("kerneldrbd: mark %d", g.log.marks), len(g.log.lines)
	g.log.mu.Unlock()
	if _, err := g.Run(ctx, "echo '<5>"+line+"' >/dev/kmsg"); err != nil {
		return 0, err
	}
	i, err := g.log.wait(ctx, from, func(s string) bool { return s == line })
	return Mark(i), err
}

// Log returns the lines of the kernel's log since a mark, without priority and time,
// over all boots. If the guest runs, everything that its kernel has logged until now
// is in it.
func (g *Guest) Log(ctx context.Context, since Mark) ([]string, error) {
	if _, err := g.machine(); err == nil {
		if _, err := g.Mark(ctx); err != nil {
			return nil, err
		}
	}
	return g.LogSoFar(since), nil
}

// LogSoFar is Log without asking the guest: what has arrived here until now.
func (g *Guest) LogSoFar(since Mark) []string {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	lines := g.log.lines[min(int(since), len(g.log.lines)):]
	return slices.DeleteFunc(slices.Clone(lines), func(s string) bool {
		return strings.HasPrefix(s, "kerneldrbd: mark ")
	})
}

// WaitLog waits for a line after a mark that the expression matches, and returns the
// line and the place after it.
func (g *Guest) WaitLog(ctx context.Context, since Mark, line *regexp.Regexp) (string, Mark, error) {
	i, err := g.log.wait(ctx, int(since), line.MatchString)
	if err != nil {
		return "", 0, fmt.Errorf("kerneldrbd: no line %q in the kernel's log: %w", line, err)
	}
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	return g.log.lines[i-1], Mark(i), nil
}

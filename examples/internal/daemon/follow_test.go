// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bufio"
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/examples/internal/control"
)

// follower reads the lines of a command that has no end.
type follower struct {
	l     *lab
	lines chan string
	seen  []string
	stop  func()
}

func (l *lab) follow(d *instance, line ...string) *follower {
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	f := &follower{l: l, lines: make(chan string, 1024)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		control.Main(ctx, d.socket, line, w, io.Discard)
		_ = w.Close()
	}()
	go func() {
		defer close(f.lines)
		for s := bufio.NewScanner(r); s.Scan(); {
			f.lines <- s.Text()
		}
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		_ = r.Close()
		<-done
	})
	l.t.Cleanup(f.stop)
	return f
}

// until reads lines up to one that begins with prefix.
func (f *follower) until(prefix string) {
	f.l.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case line, ok := <-f.lines:
			if !ok {
				f.l.t.Fatalf("the stream ended; wanted %q after\n%s", prefix, strings.Join(f.seen, "\n"))
			}
			f.seen = append(f.seen, line)
			if strings.HasPrefix(line, prefix) {
				return
			}
		case <-limit:
			f.l.t.Fatalf("never saw %q in\n%s", prefix, strings.Join(f.seen, "\n"))
		}
	}
}

// waitFor repeats a command until its output is as wanted. It looks again with every
// change that the daemon reports.
func (d *instance) waitFor(line, want string) {
	d.l.t.Helper()
	f := d.l.follow(d, "events2")
	defer f.stop()
	limit := time.After(30 * time.Second)
	for {
		_, out, _ := d.setup(line)
		if out == want {
			return
		}
		select {
		case _, ok := <-f.lines:
			require.True(d.l.t, ok, "the daemon has ended")
		case <-limit:
			d.l.t.Fatalf("%s: %q, want %q", line, out, want)
		}
	}
}

// logged waits until the daemon has written a line with text in it to its log.
func (d *instance) logged(text string) {
	d.l.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		written := d.log.next()
		if strings.Contains(d.log.String(), text) {
			return
		}
		select {
		case <-written:
		case <-deadline.C:
			d.l.t.Fatalf("never logged: %s", text)
		}
	}
}

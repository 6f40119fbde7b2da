// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-blockmirror/blockmirror/examples/internal/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is daemons in this process, with their disks in a folder of the test.
type lab struct {
	t   *testing.T
	dir string
}

func newLab(t *testing.T) *lab {
	// The path of a unix socket is short.
	dir, err := os.MkdirTemp("", "bm")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return &lab{t, dir}
}

// run runs a subtest, whose failures are its own.
func (l *lab) run(name string, f func(*testing.T)) {
	l.t.Helper()
	outer := l.t
	defer func() { l.t = outer }()
	outer.Run(name, func(t *testing.T) {
		l.t = t
		f(t)
	})
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// instance is one daemon of a lab.
type instance struct {
	l      *lab
	socket string
	at     Addresses
	stop   context.CancelFunc
	done   chan error
	log    *syncBuffer
}

// start starts a daemon and waits until it is in service.
func (l *lab) start(name string, change func(*Config)) *instance {
	l.t.Helper()
	d := &instance{l: l, socket: l.path(name + ".sock"), done: make(chan error, 1), log: &syncBuffer{}}
	cfg := Config{Web: "127.0.0.1:0", NBD: "127.0.0.1:0", Node: name, Socket: d.socket, Log: d.log, LogLevel: slog.LevelInfo}
	if change != nil {
		change(&cfg)
	}
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	ready := make(chan Addresses, 1)
	go func() { d.done <- Run(ctx, cfg, func(a Addresses) { ready <- a }) }()
	select {
	case d.at = <-ready:
	case err := <-d.done:
		stop()
		l.t.Fatalf("%s: %v", name, err)
	}
	l.t.Cleanup(d.end)
	return d
}

// end ends the daemon in order.
func (d *instance) end() {
	d.stop()
	if err, first := <-d.done; first {
		if err != nil {
			d.l.t.Errorf("the daemon ended with %v", err)
		}
		close(d.done)
	}
	if d.l.t.Failed() {
		d.l.t.Logf("log of %s:\n%s", d.socket, d.log.String())
	}
}

// setup runs a command line of drbdsetup and returns its exit code and output.
func (d *instance) setup(line ...string) (int, string, string) {
	d.l.t.Helper()
	if len(line) == 1 {
		line = strings.Fields(line[0])
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var out, errOut bytes.Buffer
	code := control.Main(ctx, d.socket, line, &out, &errOut)
	if ctx.Err() != nil {
		d.l.t.Fatalf("drbdsetup %s: no end after a minute", strings.Join(line, " "))
	}
	return code, out.String(), errOut.String()
}

// ok runs commands that have to succeed and returns the output of the last one.
func (d *instance) ok(lines ...string) (out string) {
	d.l.t.Helper()
	for _, line := range lines {
		code, o, e := d.setup(line)
		require.Zero(d.l.t, code, "drbdsetup %s\n%s", line, e)
		require.Empty(d.l.t, e)
		out = o
	}
	return out
}

// refused runs a command that has to fail with an exit code and a text on stderr.
func (d *instance) refused(exit int, text, line string) {
	d.l.t.Helper()
	code, _, e := d.setup(line)
	require.Equal(d.l.t, exit, code, "drbdsetup %s\n%s", line, e)
	require.Contains(d.l.t, e, text, "drbdsetup %s", line)
}

// disk makes a disk with metadata and returns its path.
func (l *lab) disk(name string, size int64) string {
	p := l.path(name)
	require.NoError(l.t, CreateMD([]string{fmt.Sprintf("-size=%d", size), p}, io.Discard))
	return p
}

// nextPort is where the search for free ports goes on: below those that the system
// gives to whoever asks for any.
var nextPort atomic.Int32

// ports returns free ports.
func (l *lab) ports(n int) (out []string) {
	nextPort.CompareAndSwap(0, 10000+int32(os.Getpid())%20000)
	for len(out) < n {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+nextPort.Add(1)%22000)
		s, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		require.NoError(l.t, s.Close())
		out = append(out, addr)
	}
	return out
}

// shared returns two addresses with the same port, and what makes a daemon use it for
// all of its resources.
func (l *lab) shared() (addrs []string, change func(*Config)) {
	addr := l.ports(1)[0]
	_, text, err := net.SplitHostPort(addr)
	require.NoError(l.t, err)
	port, err := strconv.Atoi(text)
	require.NoError(l.t, err)
	return []string{addr, "127.0.0.2:" + text}, func(c *Config) { c.SharedPort = port }
}

// fast are options of connect that suit two nodes on one machine.
const fast = " --socket-check-timeout=1 --connect-int=1 --ping-timeout=20"

const diskFast = " --resync-rate=200M --c-max-rate=1G --c-plan-ahead=0 --c-min-rate=0"

// pair makes two daemons with one resource, connected and in sync, alpha Primary.
func (l *lab) pair(size int64, change func(*Config)) (alpha, beta *instance) {
	l.t.Helper()
	ports := l.ports(2)
	both := map[string]*instance{}
	for i, name := range []string{"alpha", "beta"} {
		d := l.start(name, change)
		d.ok("new-resource r0", "new-minor r0 0 0",
			"attach 0 "+l.disk(name+".img", size)+" internal internal"+diskFast,
			"connect r0 ipv4:"+ports[i]+" ipv4:"+ports[1-i]+fast)
		both[name] = d
	}
	alpha, beta = both["alpha"], both["beta"]
	alpha.ok("wait-connect 0", "primary 0 --force")
	alpha.inSync()
	beta.inSync()
	return alpha, beta
}

// inSync waits until both disks of minor 0 are UpToDate.
func (d *instance) inSync() {
	d.l.t.Helper()
	d.waitFor("dstate 0", "UpToDate/UpToDate\n")
	d.waitFor("cstate 0", "Connected\n")
}

// syncBuffer is a log that can be read while it is written.
type syncBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	wake chan struct{} // closed by the next Write
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// next returns what is closed by the next Write.
func (s *syncBuffer) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake == nil {
		s.wake = make(chan struct{})
	}
	return s.wake
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/examples/internal/control"
)

// The tests of this package run the daemon as processes of its own: this test binary,
// started again with a variable set.

const asDaemon = "BLOCKMIRROR_TEST_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		main()
		return
	}
	_ = os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin:"+postgresBin())
	os.Exit(m.Run())
}

// need skips a test without its tools, and fails it where they have to be there.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool+" is not installed")
		}
	}
}

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s, and CI is set", what)
	}
	t.Skip(what)
}

// postgresBin returns where Debian has PostgreSQL's programs.
func postgresBin() string {
	all, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	return strings.Join(all, ":")
}

// lab is two daemons with one resource.
type lab struct {
	t     *testing.T
	dir   string
	ports [2]string
	size  int64
}

var nextPort atomic.Int32

func newLab(t *testing.T, size int64) *lab {
	dir, err := os.MkdirTemp("", "bm")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755)) // PostgreSQL looks through it
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l := &lab{t: t, dir: dir, size: size}
	nextPort.CompareAndSwap(0, 10000+int32(os.Getpid())%20000)
	for i := range l.ports {
		for l.ports[i] == "" {
			addr := fmt.Sprintf("127.0.0.1:%d", 10000+nextPort.Add(1)%22000)
			if s, err := net.Listen("tcp", addr); err == nil {
				require.NoError(t, s.Close())
				l.ports[i] = addr
			}
		}
	}
	return l
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// server is one daemon.
type server struct {
	l      *lab
	name   string
	index  int
	local  string // where it listens for the peer
	remote string // where it looks for the peer
	disk   string
	cmd    *exec.Cmd
	ended  chan struct{}
	log    string
	flags  []string
}

// server makes the disk of a node; start starts it.
func (l *lab) server(name string, index int, flags ...string) *server {
	s := &server{l: l, name: name, index: index, local: l.ports[index], remote: l.ports[1-index],
		disk: l.path(name + ".img"), log: l.path(name + ".log"), flags: flags}
	require.NoError(l.t, run([]string{"create-md", fmt.Sprintf("-size=%d", l.size), s.disk}))
	return s
}

func (s *server) socket() string { return s.l.path(s.name + ".sock") }
func (s *server) nbd() string    { return s.l.path(s.name + ".nbd") }
func (s *server) uri() string    { return "nbd+unix:///r0?socket=" + s.nbd() }

// start starts the daemon, attaches its disk and begins to look for the peer.
func (s *server) start() {
	t := s.l.t
	t.Helper()
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	defer log.Close()
	self, err := os.Executable()
	require.NoError(t, err)
	args := append([]string{"-node", s.name, "-socket", s.socket(), "-nbd", "off", "-nbd-socket", s.nbd(), "-web", "off"}, s.flags...)
	s.cmd = exec.Command(self, args...)
	s.cmd.Env = append(os.Environ(), asDaemon+"=1")
	s.cmd.Stderr, s.cmd.Stdout = log, log
	require.NoError(t, s.cmd.Start())
	s.ended = make(chan struct{})
	cmd, ended := s.cmd, s.ended
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		s.kill()
		text, _ := os.ReadFile(s.log)
		for _, bad := range []string{"DATA RACE", "panic: ", "goroutine 1 ["} {
			if strings.Contains(string(text), bad) {
				t.Errorf("%s: %s\n%s", s.name, bad, text)
			}
		}
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", s.name, tail(text, 8<<10))
		}
	})
	s.await("status", func(code int, _ string) bool { return code == 0 })
	s.ok("new-resource r0", "new-minor r0 0 0",
		"attach 0 "+s.disk+" internal internal --resync-rate=200M --c-max-rate=2G --c-plan-ahead=0 --c-min-rate=0",
		"connect r0 "+s.local+" "+s.remote+" --socket-check-timeout=1 --connect-int=1 --ping-timeout=20")
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// kill ends the process at once (SIGKILL).
func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// end ends the process in order.
func (s *server) end() {
	s.l.t.Helper()
	require.NoError(s.l.t, s.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.ended:
		require.Zero(s.l.t, s.cmd.ProcessState.ExitCode())
	case <-time.After(patience):
		s.l.t.Fatalf("%s does not end", s.name)
	}
}

func (s *server) setup(line string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out bytes.Buffer
	code := control.Main(ctx, s.socket(), strings.Fields(line), &out, &out)
	return code, out.String()
}

// ok runs commands of drbdsetup that have to succeed.
func (s *server) ok(lines ...string) (out string) {
	s.l.t.Helper()
	for _, line := range lines {
		code, o := s.setup(line)
		require.Zero(s.l.t, code, "%s: drbdsetup %s\n%s", s.name, line, o)
		out = o
	}
	return out
}

// patience is how long something may take on a machine that is busy with other things;
// what works takes a fraction of it.
const patience = 2 * time.Minute

// await repeats a command until what it says is as wanted.
func (s *server) await(line string, wanted func(code int, out string) bool) {
	s.l.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		code, out := s.setup(line)
		if wanted(code, out) {
			return
		}
		if time.Now().After(deadline) {
			s.l.t.Fatalf("%s: drbdsetup %s says %d %q after %v", s.name, line, code, out, patience)
		}
	}
}

// inSync waits until the nodes are connected and both disks are UpToDate.
func (s *server) inSync() {
	s.l.t.Helper()
	s.await("dstate 0", func(_ int, out string) bool { return out == "UpToDate/UpToDate\n" })
	s.await("cstate 0", func(_ int, out string) bool { return out == "Connected\n" })
}

// command runs a program that has to succeed and returns its output.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	require.NoError(t, err, "%s %s\n%s", name, strings.Join(args, " "), out)
	return string(out)
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mount is a node's volume as a file system: nbdfuse makes it a file, a loop device a
// disk, and the kernel mounts that.
type mount struct {
	l     *lab
	dir   string // of the file system
	file  string // the volume, as nbdfuse shows it
	loop  string // the volume, as a block device
	fuse  *exec.Cmd
	ended chan struct{}
}

// mount attaches the volume of a node, and calls prepare with its path before it is
// mounted.
func (s *server) mount(prepare func(volume string)) *mount {
	t := s.l.t
	t.Helper()
	m := &mount{l: s.l, dir: s.l.path("mnt"), ended: make(chan struct{})}
	fuse := s.l.path(s.name + ".fuse")
	require.NoError(t, os.MkdirAll(m.dir, 0o755))
	require.NoError(t, os.MkdirAll(fuse, 0o755))
	m.file = filepath.Join(fuse, "nbd")
	m.fuse = exec.Command("nbdfuse", m.file, s.uri())
	m.fuse.Stderr = os.Stderr
	require.NoError(t, m.fuse.Start())
	go func() { _ = m.fuse.Wait(); close(m.ended) }()
	t.Cleanup(m.drop)
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if info, err := os.Stat(m.file); err == nil && info.Size() > 0 {
			break
		}
		require.True(t, time.Now().Before(deadline), "nbdfuse shows no volume")
	}
	// Not on nbdfuse's file: e2fsprogs write single bytes to files, which the volume does
	// not take and nbdfuse 1.14 does not survive.
	m.loop = strings.TrimSpace(command(t, "losetup", "-f", "--show", m.file))
	prepare(m.loop)
	command(t, "mount", m.loop, m.dir)
	return m
}

// leave takes everything apart in order.
func (m *mount) leave() {
	m.l.t.Helper()
	m.umount(m.dir)
	command(m.l.t, "losetup", "-d", m.loop)
	m.loop = ""
	m.umount(filepath.Dir(m.file))
	<-m.ended
}

// umount unmounts a folder as soon as nobody is in it: processes that were told to end,
// and a loop device that was given up, hold it for a moment more.
func (m *mount) umount(dir string) {
	m.l.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		out, err := exec.Command("umount", dir).CombinedOutput()
		if err == nil {
			return
		}
		require.True(m.l.t, time.Now().Before(deadline), "umount: %s", out)
	}
}

// drop takes everything apart whatever state it is in.
func (m *mount) drop() {
	_ = exec.Command("umount", "-l", m.dir).Run()
	if m.loop != "" {
		_ = exec.Command("losetup", "-d", m.loop).Run()
	}
	_ = m.fuse.Process.Kill()
	<-m.ended
	_ = exec.Command("umount", "-l", filepath.Dir(m.file)).Run()
}

// postgres is a database on a mount.
type postgres struct {
	l    *lab
	data string
	sock string
}

func (l *lab) asPostgres(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	l.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "runuser", append([]string{"-u", "postgres", "--", name}, args...)...)
	cmd.Dir = "/"
	cmd.WaitDelay = 5 * time.Second // of what it has started
	return cmd
}

func (p *postgres) do(name string, args ...string) string {
	p.l.t.Helper()
	out, err := p.l.asPostgres(name, args...).CombinedOutput()
	require.NoError(p.l.t, err, "%s %s\n%s", name, strings.Join(args, " "), out)
	return string(out)
}

func (p *postgres) start() {
	p.l.t.Helper()
	p.do("pg_ctl", "-D", p.data, "-l", filepath.Join(p.sock, "log"), "-w", "-t", "60", "start", "-o",
		"-c listen_addresses= -k "+p.sock+" -c shared_buffers=32MB -c max_wal_size=64MB -c checkpoint_timeout=30s")
}

func (p *postgres) query(sql string) string {
	p.l.t.Helper()
	return strings.TrimSpace(p.do("psql", "-h", p.sock, "-d", "postgres", "-AtX", "-v", "ON_ERROR_STOP=1", "-c", sql))
}

// ledger is what the database has confirmed.
type ledger struct {
	mu   sync.Mutex
	rows map[int]bool
	next atomic.Int64
	n    atomic.Int64
}

// writer inserts rows, each in a transaction of its own, until the database is gone.
func (g *ledger) writer(p *postgres) (wait func()) {
	cmd := p.l.asPostgres("psql", "-h", p.sock, "-d", "postgres", "-AtX")
	in, err := cmd.StdinPipe()
	require.NoError(p.l.t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(p.l.t, err)
	require.NoError(p.l.t, cmd.Start())
	done := make(chan struct{})
	go func() {
		defer close(done)
		answers := bufio.NewScanner(out)
		for {
			id := int(g.next.Add(1))
			if _, err := fmt.Fprintf(in, "INSERT INTO ledger VALUES (%d);\n", id); err != nil || !answers.Scan() {
				break
			}
			if answers.Text() != "INSERT 0 1" {
				continue
			}
			g.mu.Lock()
			g.rows[id] = true
			g.mu.Unlock()
			g.n.Add(1)
		}
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	}()
	return func() { <-done }
}

// TestPostgres kills the Primary under a database three times, and each time goes on
// with the other node's copy, from which no confirmed transaction may be missing.
func TestPostgres(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	need(t, "nbdfuse", "mkfs.ext4", "e2fsck", "runuser", "initdb", "pg_ctl", "psql", "pgbench", "mount", "losetup", "pgrep")
	if os.Getuid() != 0 {
		missing(t, "mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		missing(t, "there is no /dev/fuse")
	}
	l := newLab(t, 320<<20)
	alpha, beta := l.server("alpha", 0), l.server("beta", 1)
	alpha.start()
	beta.start()
	alpha.ok("wait-connect 0", "primary 0 --force")
	sock := l.path("pg")
	require.NoError(t, os.Mkdir(sock, 0o755))
	command(t, "chown", "postgres", sock)
	p := &postgres{l: l, data: l.path("mnt/data"), sock: sock}
	t.Cleanup(func() { _ = l.asPostgres("pg_ctl", "-D", p.data, "-m", "immediate", "stop").Run() })

	at := alpha.mount(func(volume string) { command(t, "mkfs.ext4", "-q", "-F", volume) })
	require.NoError(t, os.Mkdir(p.data, 0o700))
	command(t, "chown", "postgres", p.data)
	p.do("initdb", "-D", p.data, "-A", "trust", "--wal-segsize=4", "-E", "UTF8", "--locale=C")
	p.start()
	p.query("CREATE TABLE ledger (id integer PRIMARY KEY)")
	p.do("pgbench", "-h", sock, "-i", "-q", "-s", "1", "postgres")
	alpha.inSync()

	g := &ledger{rows: map[int]bool{}}
	for round := 1; round <= 3; round++ {
		g.load(p, 300, func() {
			alpha.kill()
			_ = at.fuse.Process.Kill() // the client's machine is gone with it; nbdfuse may wait for ever
		})
		_ = l.asPostgres("pg_ctl", "-D", p.data, "-m", "immediate", "stop").Run()
		killPostgres(sock)
		at.drop()

		beta.await("primary 0", func(code int, _ string) bool { return code == 0 })
		at = beta.mount(fsck(t))
		p.start()
		g.check(p)
		t.Logf("round %d: %d confirmed transactions, all there", round, len(g.rows))

		// The dead node returns while the database works, and gets what it missed.
		wait := g.writer(p)
		alpha.start()
		beta.inSync()
		p.do("pg_ctl", "-D", p.data, "-w", "-m", "fast", "stop")
		wait()
		at.leave()

		// Take-back.
		beta.ok("secondary 0")
		alpha.ok("primary 0")
		at = alpha.mount(fsck(t))
		p.start()
		g.check(p)
	}
	p.do("pg_ctl", "-D", p.data, "-w", "-m", "fast", "stop")
	at.leave()
	alpha.ok("secondary 0")
	alpha.inSync()
	size := volumeSize(t, alpha)
	alpha.end()
	beta.end()
	sameDisks(t, alpha.disk, beta.disk, size)
}

// load runs the writers and pgbench, and calls kill after n more confirmed transactions.
func (g *ledger) load(p *postgres, n int64, kill func()) {
	bench := p.l.asPostgres("pgbench", "-h", p.sock, "-n", "-c", "2", "-T", "600", "postgres")
	require.NoError(p.l.t, bench.Start())
	var waits []func()
	until := g.n.Load() + n
	for range 3 {
		waits = append(waits, g.writer(p))
	}
	for deadline := time.Now().Add(2 * time.Minute); g.n.Load() < until; time.Sleep(5 * time.Millisecond) {
		require.True(p.l.t, time.Now().Before(deadline), "the database is too slow: %d of %d", g.n.Load(), until)
	}
	kill()
	killPostgres(p.sock)
	for _, wait := range waits {
		wait()
	}
	_ = bench.Wait()
}

// killPostgres kills the database of a lab: on a disk that is gone it cannot end by
// itself.
func killPostgres(sock string) {
	text, err := os.ReadFile(filepath.Join(sock, ".s.PGSQL.5432.lock"))
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.SplitN(string(text), "\n", 2)[0])
	if err != nil {
		return
	}
	children, _ := exec.Command("pgrep", "-P", strconv.Itoa(pid)).Output()
	for _, id := range append(strings.Fields(string(children)), strconv.Itoa(pid)) {
		_ = exec.Command("kill", "-KILL", id).Run()
	}
	for _, f := range []string{".s.PGSQL.5432", ".s.PGSQL.5432.lock"} {
		_ = os.Remove(filepath.Join(sock, f))
	}
}

// check holds the database to what it has confirmed.
func (g *ledger) check(p *postgres) {
	p.l.t.Helper()
	there := map[int]bool{}
	for _, s := range strings.Fields(p.query("SELECT id FROM ledger")) {
		id, err := strconv.Atoi(s)
		require.NoError(p.l.t, err)
		there[id] = true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for id := range g.rows {
		require.True(p.l.t, there[id], "transaction %d was confirmed and is lost", id)
	}
	require.Equal(p.l.t, "t|t|t", p.query(`SELECT (SELECT sum(abalance) FROM pgbench_accounts) = h, (SELECT sum(bbalance) FROM pgbench_branches) = h,
		(SELECT sum(tbalance) FROM pgbench_tellers) = h FROM (SELECT coalesce(sum(delta), 0) AS h FROM pgbench_history) AS x`), "pgbench's sums")
}

// fsck replays the journal, and wants the file system to be without a fault then.
func fsck(t *testing.T) func(string) {
	return func(volume string) {
		out, err := exec.Command("e2fsck", "-p", volume).CombinedOutput()
		if exit, ok := err.(*exec.ExitError); ok && exit.ExitCode() == 1 {
			err = nil // repaired: the journal was replayed, or orphans were freed
		}
		require.NoError(t, err, "e2fsck -p\n%s", out)
		command(t, "e2fsck", "-f", "-n", volume)
	}
}

// volumeSize returns the size of a node's volume in bytes.
func volumeSize(t *testing.T, s *server) int64 {
	_, rest, found := strings.Cut(s.ok("status --statistics"), "size:")
	require.True(t, found)
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	require.NoError(t, err)
	return kib << 10
}

// sameDisks compares the data of two disks.
func sameDisks(t *testing.T, a, b string, size int64) {
	t.Helper()
	command(t, "cmp", "-n", strconv.FormatInt(size, 10), a, b)
}

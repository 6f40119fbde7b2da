// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tool returns the path of a real client. Without it the test is skipped, and fails in CI.
func tool(t testing.TB, name, debian string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing: install Debian's %s", name, debian)
		}
		t.Skipf("%s is missing: install Debian's %s to run this test", name, debian)
	}
	return path
}

// run runs a real client, which has a minute, and returns what it printed.
func run(t testing.TB, path string, args ...string) string {
	out, err := try(path, args...)
	require.NoError(t, err, "%s %q: %s", path, args, out)
	return out
}

func try(path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	return string(out), err
}

// noise returns a file with holes and data.
func noise(t testing.TB, size int) (path string, data []byte) {
	data = make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	for off := 0; off < size; off += 1 << 20 {
		r.Read(data[off : off+300<<10])
	}
	path = filepath.Join(t.TempDir(), "noise")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path, data
}

func contents(t testing.TB, b Backend) []byte {
	data := make([]byte, b.Size())
	require.NoError(t, b.ReadAt(context.Background(), data, 0))
	return data
}

// onUnix serves on a socket and returns the URI of an export on it.
func onUnix(t testing.TB, s *Server, export string) string {
	dir, err := os.MkdirTemp("", "nbd") // t.TempDir may be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	require.NoError(t, err)
	go s.Serve(l)
	return "nbd+unix:///" + export + "?socket=" + l.Addr().String()
}

func TestNbdinfo(t *testing.T) {
	nbdinfo := tool(t, "nbdinfo", "libnbd-bin")
	e := memory("disk", 64<<20)
	e.MinBlock = 512
	s := newServer(t, Config{}, e, memory("other", 1<<20))
	uri := onUnix(t, s, "disk")
	out := run(t, nbdinfo, uri)
	for _, want := range []string{
		"protocol: newstyle-fixed without TLS, using structured packets", "export=\"disk\"", "description: of disk",
		"export-size: 67108864", "base:allocation", "is_read_only: false", "can_cache: false", "can_df: true", "can_fast_zero: true",
		"can_flush: true", "can_fua: true", "can_multi_conn: true", "can_trim: true", "can_zero: true",
		"block_size_minimum: 512", "block_size_preferred: 4096", "block_size_maximum: 33554432",
	} {
		require.Contains(t, out, want)
	}
	require.NoError(t, e.Backend.WriteAt(t.Context(), []byte{1}, 1<<20, false))
	require.Regexp(t, `^\s+0\s+1048576\s+3\s+hole,zero\n\s+1048576\s+65536\s+0\s+data\n\s+1114112\s+65994752\s+3\s+hole,zero\n$`,
		run(t, nbdinfo, "--map", uri))
	out = run(t, nbdinfo, "--list", "nbd://"+listen(t, s).String())
	require.Contains(t, out, `export="disk"`)
	require.Contains(t, out, `export="other"`)
}

func TestNbdcopy(t *testing.T) {
	nbdcopy := tool(t, "nbdcopy", "libnbd-bin")
	file, data := noise(t, 48<<20)
	m := NewMemory(48 << 20)
	s := newServer(t, Config{}, Export{Name: "disk", Backend: m})
	uri := onUnix(t, s, "disk")
	run(t, nbdcopy, "--connections=4", "--requests=32", "--flush", file, uri)
	require.True(t, bytes.Equal(data, contents(t, m)))
	back := filepath.Join(t.TempDir(), "back")
	run(t, nbdcopy, "--connections=4", uri, back)
	got, err := os.ReadFile(back)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
}

func TestNbdcopyOverTLS(t *testing.T) {
	nbdcopy := tool(t, "nbdcopy", "libnbd-bin")
	a := newAuthority(t)
	file, data := noise(t, 8<<20)
	m := NewMemory(8 << 20)
	addr := listen(t, newServer(t, Config{TLS: a.server(t, true)}, Export{Name: "disk", Backend: m}))
	port := addr.(*net.TCPAddr).Port
	run(t, nbdcopy, file, fmt.Sprintf("nbds://localhost:%d/disk?tls-certificates=%s", port, a.dir))
	require.True(t, bytes.Equal(data, contents(t, m)))
	out, err := try(nbdcopy, file, fmt.Sprintf("nbd://localhost:%d/disk", port))
	require.Error(t, err, "plain text")
	require.Contains(t, out, "TLS")
}

func TestQemuImg(t *testing.T) {
	qemuImg := tool(t, "qemu-img", "qemu-utils")
	file, data := noise(t, 48<<20)
	m := NewMemory(48 << 20)
	s := newServer(t, Config{}, Export{Name: "disk", Backend: m, MinBlock: 512})
	uri := onUnix(t, s, "disk")
	require.Contains(t, run(t, qemuImg, "info", uri), "virtual size: 48 MiB")
	run(t, qemuImg, "convert", "-n", "-f", "raw", "-O", "raw", "-W", file, uri)
	require.True(t, bytes.Equal(data, contents(t, m)))
	require.Contains(t, run(t, qemuImg, "compare", "-f", "raw", "-F", "raw", file, uri), "Images are identical.")
	require.Contains(t, run(t, qemuImg, "map", "--output=json", "-f", "raw", uri), `"data": false`)

	refused := memory("refused", 1<<20)
	refused.Open = func(context.Context) error { return fmt.Errorf("%w: r0 is Secondary here", EPERM) }
	require.NoError(t, s.Add(refused))
	out, err := try(qemuImg, "info", onUnix(t, s, "refused"))
	require.Error(t, err)
	require.Contains(t, out, "r0 is Secondary here", "the reason reaches the user")
}

func TestQemuIO(t *testing.T) {
	qemuIO := tool(t, "qemu-io", "qemu-utils")
	b := &counter{Memory: NewMemory(64 << 20)}
	s := newServer(t, Config{}, Export{Name: "disk", Backend: b, MinBlock: 512})
	out := run(t, qemuIO, "-f", "raw", "-d", "unmap", "-t", "none", onUnix(t, s, "disk"),
		"-c", "write -P 17 0 1M", "-c", "write -f -P 18 1M 4k", "-c", "write -z 2M 1M", "-c", "write -z -u 3M 40M",
		"-c", "discard 8M 32M", "-c", "aio_write -P 19 4M 64k", "-c", "aio_write -P 20 5M 64k", "-c", "aio_flush",
		"-c", "flush", "-c", "read -P 17 0 1M", "-c", "read -P 18 1M 4k", "-c", "read -P 0 2M 2M", "-c", "read -P 19 4M 64k",
		"-c", "read -P 20 5M 64k")
	require.NotContains(t, out, "fail")
	require.NotContains(t, out, "error")
	require.NotZero(t, b.flushes.Load())
	require.NotZero(t, b.fua.Load())
}

// fio writes with many requests in flight and checks what it reads.
func TestFio(t *testing.T) {
	fio := tool(t, "fio", "fio")
	if out := run(t, fio, "--enghelp"); !bytes.Contains([]byte(out), []byte("nbd")) {
		if os.Getenv("CI") != "" {
			t.Fatal("this fio has no nbd engine: install Debian's fio")
		}
		t.Skip("this fio has no nbd engine")
	}
	s := newServer(t, Config{}, Export{Name: "disk", Backend: NewMemory(32 << 20), MinBlock: 512})
	uri := onUnix(t, s, "disk")
	run(t, fio, "--name=verify", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bsrange=512-64k", "--blockalign=512",
		"--size=32M", "--iodepth=64", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0", "--randseed=7")
}

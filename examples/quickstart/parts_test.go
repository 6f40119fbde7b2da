// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// memory is a volume as the ledger reads it.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error) { return copy(p, m[off:]), nil }

// write does what a node does with a block.
func (m memory) write(b Block) { copy(m[b.Offset:], b.Data) }

func TestLedger(t *testing.T) {
	const a, b, c = 0, 5 * blockSize, readSpan + 3*blockSize
	l, vol := newLedger(), make(memory, 2*readSpan)
	expect := func(step string, blocks, wrong int64) {
		t.Helper()
		if n, bad, err := l.verify(vol); err != nil || n != blocks || bad != wrong {
			t.Errorf("%s: %d blocks, %d wrong, %v; want %d and %d", step, n, bad, err, blocks, wrong)
		}
	}
	for _, offset := range []int64{a, b, c} {
		vol.write(l.begin(offset))
		l.acknowledged(offset)
	}
	expect("all written", 3, 0)
	if n := l.since(0); n != 3 {
		t.Errorf("%d blocks since the beginning", n)
	}

	then, old := l.now(), bytes.Clone(vol)
	l.begin(b)
	if l.since(then) != 0 || l.unanswered() != 1 {
		t.Error("a write that was only begun counts as written")
	}
	expect("a write without an answer did not happen", 3, 0)
	if l.unanswered() != 0 {
		t.Error("what was found is not what is expected from now on")
	}
	vol.write(l.begin(b))
	expect("a write without an answer happened", 3, 0)
	copy(vol, old)
	expect("it is gone again", 3, 1)

	vol.write(l.begin(b))
	l.acknowledged(b)
	if n := l.since(then); n != 1 {
		t.Errorf("%d blocks since then", n)
	}
	copy(vol, old)
	expect("an acknowledged write is lost", 3, 1)
	copy(vol[c:], vol[a:][:blockSize])
	expect("and another one holds the data of a wrong block", 3, 2)
	l.acknowledged(b)
	vol[a+blockSize-1] ^= 1
	expect("and a bit has flipped", 3, 3)
}

func TestLedgerReadError(t *testing.T) {
	l := newLedger()
	l.begin(0)
	if _, _, err := l.verify(broken{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("the error is %v", err)
	}
}

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, io.ErrNoProgress }

func TestCompareBlocks(t *testing.T) {
	const size = chunkSize + 3*blockSize + 512
	a, b := make(memory, size), make(memory, size)
	for _, at := range []int{0, 17, chunkSize - 1, chunkSize, size - 1} {
		b[at] = 1
	}
	if blocks, differ, err := compareBlocks(a, b, size); err != nil || blocks != 256+4 || differ != 4 {
		t.Errorf("%d blocks, %d differ, %v", blocks, differ, err)
	}
	if _, _, err := compareBlocks(a, broken{}, size); err == nil {
		t.Error("a read error is hidden")
	}
}

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

// through sends n bytes through the link and returns what comes back.
func through(t *testing.T, l *link, n int) ([]byte, error) {
	t.Helper()
	c, err := net.Dial("tcp", l.toBeta.Addr().String())
	if err != nil {
		return nil, err // reset before it was noticed to be there
	}
	defer c.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, n))
		sent <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(c)
	return got, errors.Join(err, <-sent)
}

func TestLink(t *testing.T) {
	l, err := newLink(echo(t), echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	const n = 300_000
	if got, err := through(t, l, n); err != nil || len(got) != n || l.passed() != 2*n {
		t.Errorf("%d bytes came back, %d passed, %v", len(got), l.passed(), err)
	}

	l.cutAfter(1001)
	if got, err := through(t, l, n); err == nil && len(got) > 0 {
		t.Errorf("%d bytes came back through a link that was cut", len(got))
	}
	if l.passed() != 2*n+1001 {
		t.Errorf("%d bytes passed before the cut, want 1001", l.passed()-2*n)
	}
	if got, _ := through(t, l, 10); len(got) != 0 {
		t.Error("a new connection gets through a link that is cut")
	}

	l.mend()
	if got, err := through(t, l, n); err != nil || len(got) != n {
		t.Errorf("mended: %d bytes came back, %v", len(got), err)
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	r := newReport(&out, false)
	r.equal("size", int64(1), int64(1))
	r.between("blocks", 1, 3, 3)
	if !r.table() || strings.Contains(out.String(), "✗") {
		t.Error("all is as expected, but the table says no:\n" + out.String())
	}
	for _, bad := range []func(){
		func() { r.equal("size", int64(1), int64(2)) },
		func() { r.between("blocks", 1, 3, 0) },
		func() { r.between("blocks", 1, 3, 4) },
	} {
		r.rows = r.rows[:2]
		out.Reset()
		bad()
		if r.table() || strings.Count(out.String(), "✗") != 1 {
			t.Error("a mismatch is not told:\n" + out.String())
		}
	}
}

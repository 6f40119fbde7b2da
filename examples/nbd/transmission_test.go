// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// bare is a Backend that can do what every Backend can, and no more.
type bare struct{ Backend }

// counter counts what is durable on purpose.
type counter struct {
	*Memory
	flushes, fua atomic.Int32
}

func (b *counter) Flush(context.Context) error { b.flushes.Add(1); return nil }

func (b *counter) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	if fua {
		b.fua.Add(1)
	}
	return b.Memory.WriteAt(ctx, p, off, fua)
}

func TestReadWrite(t *testing.T) {
	addr := listen(t, newServer(t, Config{}, memory("", 64<<20)))
	for _, structured := range []bool{false, true} {
		c := open(t, addr, "", structured)
		for i, n := range []int{1, 512, 4096, 4097, 1 << 20, maxBlock} {
			data := bytes.Repeat([]byte{byte(i + 1), 7, 9}, n/3+1)[:n]
			off := uint64(i * 1000)
			require.Zero(t, c.do(cmdWrite, 0, off, uint32(n), data).errno)
			r := c.do(cmdRead, 0, off, uint32(n), nil)
			require.Zero(t, r.errno)
			if require.Equal(t, structured, r.structured); structured {
				require.EqualValues(t, chunkOffsetData, r.kind)
				require.Equal(t, off, binary.BigEndian.Uint64(r.data))
				r.data = r.data[8:]
			}
			require.True(t, bytes.Equal(data, r.data))
		}
	}
}

func TestRequestsThatCannotBe(t *testing.T) {
	ro := memory("ro", 1<<20)
	ro.ReadOnly = true
	blocks := memory("blocks", 1<<20)
	blocks.MinBlock = 512
	addr := listen(t, newServer(t, Config{}, memory("", 1<<26), ro, blocks, Export{Name: "bare", Backend: bare{NewMemory(1 << 20)}}))
	for _, test := range []struct {
		export         string
		command, flags uint16
		off            uint64
		n              uint32
		want           Errno
	}{
		{"", 99, 0, 0, 512, EINVAL},
		{"", cmdRead, 0, 0, 0, EINVAL},
		{"", cmdRead, 0, 1 << 26, 1, EINVAL},
		{"", cmdRead, 0, 1<<64 - 1, 2, EINVAL},
		{"", cmdRead, 0, 0, maxBlock + 1, EOVERFLOW},
		{"", cmdRead, cmdFlagNoHole, 0, 512, EINVAL},
		{"", cmdRead, cmdFlagFUA, 0, 512, 0},
		{"", cmdWrite, 0, 1<<26 - 511, 512, ENOSPC},
		{"", cmdWrite, 1 << 15, 0, 512, EINVAL},
		{"", cmdWriteZeroes, 0, 0, 1<<26 + 1, ENOSPC},
		{"", cmdWriteZeroes, 0, 0, 1 << 26, 0},
		{"", cmdWriteZeroes, cmdFlagFastZero, 0, 1 << 20, 0},
		{"", cmdWriteZeroes, cmdFlagFastZero | cmdFlagNoHole, 0, 1 << 20, ENOTSUP},
		{"", cmdTrim, 0, 1 << 25, 1<<25 + 1, EINVAL},
		{"", cmdFlush, 0, 512, 0, EINVAL},
		{"ro", cmdWrite, 0, 0, 512, EPERM},
		{"ro", cmdTrim, 0, 0, 512, EPERM},
		{"ro", cmdWriteZeroes, 0, 0, 512, EPERM},
		{"ro", cmdRead, 0, 0, 512, 0},
		{"blocks", cmdWrite, 0, 256, 512, EINVAL},
		{"blocks", cmdRead, 0, 512, 256, EINVAL},
		{"blocks", cmdWrite, 0, 512, 512, 0},
		{"bare", cmdTrim, 0, 0, 512, EINVAL},
		{"bare", cmdWriteZeroes, 0, 0, 512, EINVAL},
		{"bare", cmdFlush, 0, 0, 0, 0},
	} {
		for _, structured := range []bool{false, true} {
			c := open(t, addr, test.export, structured)
			var data []byte
			if test.command == cmdWrite {
				data = make([]byte, test.n)
			}
			got := c.do(test.command, test.flags, test.off, test.n, data)
			require.Equal(t, test.want, got.errno, "%+v: %s", test, got.data)
			require.Zero(t, c.do(cmdRead, 0, 0, 512, nil).errno, "the connection goes on")
			c.nc.Close()
		}
	}
	c := open(t, addr, "", false)
	require.Equal(t, EINVAL, c.do(cmdRead, cmdFlagDF, 0, 512, nil).errno)
	require.Equal(t, EINVAL, c.do(cmdBlockStatus, 0, 0, 512, nil).errno)
}

func TestClientsThatBreakTheTransmission(t *testing.T) {
	addr := listen(t, newServer(t, Config{}, memory("", 1<<20)))
	t.Run("no magic", func(t *testing.T) {
		c := open(t, addr, "", true)
		c.write(make([]byte, requestHeaderSize))
		c.gone()
	})
	t.Run("huge write", func(t *testing.T) {
		c := open(t, addr, "", true)
		c.send(request{command: cmdWrite, length: 1<<32 - 1}, nil)
		c.gone()
	})
	t.Run("half a write", func(t *testing.T) {
		c := open(t, addr, "", true)
		c.send(request{command: cmdWrite, length: 4096}, make([]byte, 4095))
		require.NoError(t, c.nc.(*net.TCPConn).CloseWrite())
		c.gone()
		c = open(t, addr, "", true)
		require.Equal(t, make([]byte, 4096), c.do(cmdRead, 0, 0, 4096, nil).data[8:], "none of it was written")
	})
	t.Run("disconnect", func(t *testing.T) {
		c := open(t, addr, "", true)
		c.send(request{command: cmdRead, length: 512}, nil)
		c.send(request{command: cmdDisc}, nil)
		require.Zero(t, c.receive(512).errno, "what came before is answered")
		c.gone()
	})
}

func TestFlushAndFUA(t *testing.T) {
	b := &counter{Memory: NewMemory(1 << 20)}
	c := open(t, listen(t, newServer(t, Config{}, Export{Backend: b})), "", false)
	require.Zero(t, c.do(cmdWrite, 0, 0, 512, make([]byte, 512)).errno)
	require.Zero(t, b.fua.Load())
	require.Zero(t, c.do(cmdWrite, cmdFlagFUA, 0, 512, make([]byte, 512)).errno)
	require.EqualValues(t, 1, b.fua.Load())
	require.Zero(t, c.do(cmdTrim, 0, 0, 512, nil).errno)
	require.Zero(t, b.flushes.Load())
	require.Zero(t, c.do(cmdTrim, cmdFlagFUA, 0, 512, nil).errno)
	require.Zero(t, c.do(cmdWriteZeroes, cmdFlagFUA, 0, 512, nil).errno)
	require.Zero(t, c.do(cmdFlush, 0, 0, 0, nil).errno)
	require.EqualValues(t, 3, b.flushes.Load())
}

func TestBlockStatus(t *testing.T) {
	m := NewMemory(1 << 20)
	c := open(t, listen(t, newServer(t, Config{}, Export{Backend: m}, Export{Name: "bare", Backend: bare{m}})), "", true)
	require.Zero(t, c.do(cmdWrite, 0, 3*pageSize+5, 1, []byte{1}).errno)
	status := func(flags uint16, off uint64, n uint32) []uint32 {
		r := c.do(cmdBlockStatus, flags, off, n, nil)
		require.Zero(t, r.errno, "%s", r.data)
		require.EqualValues(t, chunkBlockStatus, r.kind)
		require.EqualValues(t, metaAllocationID, binary.BigEndian.Uint32(r.data))
		var list []uint32
		for b := r.data[4:]; len(b) > 0; b = b[4:] {
			list = append(list, binary.BigEndian.Uint32(b))
		}
		return list
	}
	require.Equal(t, []uint32{3 * pageSize, 3, pageSize, 0, 12 * pageSize, 3}, status(0, 0, 1<<20))
	require.Equal(t, []uint32{3 * pageSize, 3}, status(cmdFlagReqOne, 0, 1<<20))
	require.Equal(t, []uint32{100, 0, 50, 3}, status(0, 4*pageSize-100, 150))
	c = open(t, c.nc.RemoteAddr(), "bare", true)
	require.Equal(t, []uint32{1 << 20, 0}, status(0, 0, 1<<20), "all is data if nobody knows")
}

// More extents than fit into a reply end it early, without a gap.
func TestExtentsAreBounded(t *testing.T) {
	m := NewMemory(8 * pageSize)
	require.NoError(t, m.WriteAt(t.Context(), []byte{1}, pageSize, false))
	require.NoError(t, m.WriteAt(t.Context(), []byte{1}, 3*pageSize, false))
	list, err := m.Extents(t.Context(), 0, 8*pageSize, 2)
	require.NoError(t, err)
	require.Equal(t, []Extent{{Length: pageSize, Hole: true, Zero: true}, {Length: pageSize}}, list)
}

// Random requests on several connections at a time, each in a region of its own, do
// to the device what they do to a slice.
func TestRandomRequests(t *testing.T) {
	const region = 3 * pageSize
	addr := listen(t, newServer(t, Config{MaxRequests: 3}, memory("", 4*region)))
	rapid.Check(t, func(rt *rapid.T) {
		seeds := rapid.SliceOfN(rapid.SliceOfN(rapid.Uint32(), 5, 30), 1, 4).Draw(rt, "seeds")
		var wg sync.WaitGroup
		for i, list := range seeds {
			c := open(t, addr, "", i%2 == 0)
			wg.Go(func() { randomRequests(c, uint64(i*region), region, list) })
		}
		wg.Wait()
	})
}

func randomRequests(c *client, base uint64, region uint32, seeds []uint32) {
	defer c.nc.Close()
	c.do(cmdWriteZeroes, 0, base, region, nil)
	model := make([]byte, region)
	for _, x := range seeds {
		off := x % region
		n := min(x>>7%20000+1, region-off)
		part := model[off : off+n]
		switch x % 4 {
		case 0, 1:
			for i := range part {
				part[i] = byte(x) + byte(i)
			}
			c.do(cmdWrite, 0, base+uint64(off), n, part)
		case 2:
			clear(part)
			c.do(cmdWriteZeroes, uint16(x>>8)&cmdFlagNoHole, base+uint64(off), n, nil)
		case 3:
			r := c.do(cmdRead, 0, base+uint64(off), n, nil)
			if r.structured {
				r.data = r.data[8:]
			}
			if !bytes.Equal(part, r.data) {
				c.t.Errorf("read of %d bytes at %d differs", n, off)
			}
		}
	}
}

// gate holds requests up until it is opened.
type gate struct {
	*Memory
	came  chan int64 // offsets
	leave chan struct{}
}

func newGate() *gate {
	return &gate{Memory: NewMemory(1 << 30), came: make(chan int64, 1000), leave: make(chan struct{})}
}

func (g *gate) ReadAt(ctx context.Context, p []byte, off int64) error {
	g.came <- off
	select {
	case <-g.leave:
		return g.Memory.ReadAt(ctx, p, off)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// As many requests are under way as are allowed, and not one more.
func TestRequestsInFlight(t *testing.T) {
	g := newGate()
	c := open(t, listen(t, newServer(t, Config{MaxRequests: 5}, Export{Backend: g})), "", false)
	for i := range 8 {
		c.send(request{command: cmdRead, cookie: uint64(i), length: 512}, nil)
	}
	for range 5 {
		<-g.came
	}
	require.Empty(t, g.came)
	close(g.leave)
	seen := map[uint64]bool{}
	for range 8 {
		r := c.receive(512)
		require.Zero(t, r.errno)
		seen[r.cookie] = true
	}
	require.Len(t, seen, 8)
}

// Data beyond the limit waits in the network.
func TestBytesInFlight(t *testing.T) {
	g := newGate()
	c := open(t, listen(t, newServer(t, Config{}, Export{Backend: g})), "", false)
	go func() {
		for i := range 5 {
			c.send(request{command: cmdRead, cookie: uint64(i), offset: uint64(i), length: maxBlock / 2}, nil)
		}
	}()
	<-g.came
	<-g.came
	require.Empty(t, g.came)
	close(g.leave)
	for range 5 {
		require.Zero(t, c.receive(maxBlock/2).errno)
	}
}

func TestErrno(t *testing.T) {
	require.Equal(t, EIO, errnoOf(io.ErrUnexpectedEOF))
	require.Equal(t, EIO, errnoOf(Errno(0)))
	require.Equal(t, ENOSPC, errnoOf(fmt.Errorf("disk: %w", ENOSPC)))
	require.Equal(t, ESHUTDOWN, errnoOf(fmt.Errorf("read: %w", context.Canceled)))
}

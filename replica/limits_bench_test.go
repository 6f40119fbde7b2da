// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// BenchmarkAgainstLimit measures the mirror over loopback TCP beside its own limits,
// in the same run: a plain write of one disk, and a round trip of the same data. The
// metric x-limit is the mirror's time by the sum of the two; 1 would be a mirror
// that costs nothing. See docs/performance.md.
func BenchmarkAgainstLimit(b *testing.B) {
	for _, files := range []bool{false, true} {
		where := map[bool]string{false: "memory", true: "files"}[files]
		for _, size := range []int{4 << 10, 1 << 20} {
			name := map[int]string{4 << 10: "4KiB", 1 << 20: "1MiB"}[size]
			b.Run(where+"/write/"+name+"/QD1", func(b *testing.B) { benchmarkLimit(b, files, size) })
		}
		b.Run(where+"/resync", func(b *testing.B) { benchmarkResync(b, files) })
	}
}

func limitPair(b *testing.B, files bool) *pair {
	o := pairOptions{tcp: true, size: 128 << 20, config: func(_ string, cfg *Config) { cfg.Volumes[0].NoDiskFlushes = true }}
	if files {
		dir := b.TempDir()
		o.disks = func(name string) blockdev.Device {
			f, err := blockdev.Create(filepath.Join(dir, name), 128<<20, blockdev.Options{Preallocate: true})
			if err != nil {
				b.Skip(err)
			}
			return f
		}
	}
	p := newPair(b, o)
	p.start(b)
	return p
}

// benchmarkLimit interleaves the three measurements, so that a machine whose speed
// drifts drifts for all of them.
func benchmarkLimit(b *testing.B, files bool, size int) {
	p := limitPair(b, files)
	echo := newEcho(b, size)
	// The limit's own disk is one like the mirror's.
	limit := p.alpha.disk
	buf := blockdev.AlignedBuffer(size)
	const span = 64 << 20
	for off := int64(0); off < span; off += int64(size) {
		_, err := p.alpha.vol.WriteAt(buf, off)
		require.NoError(b, err)
	}
	var mirror, disk, trip time.Duration
	b.SetBytes(int64(size))
	b.ResetTimer()
	for i := range b.N {
		off := (int64(i) * 7919 * int64(size)) % span
		began := time.Now()
		_, err := p.alpha.vol.WriteAt(buf, off)
		mirror += time.Since(began)
		require.NoError(b, err)
		b.StopTimer()
		began = time.Now()
		_, err = limit.WriteAt(buf, off) // the same bytes to the same place
		disk += time.Since(began)
		require.NoError(b, err)
		began = time.Now()
		require.NoError(b, echo.trip(buf))
		trip += time.Since(began)
		b.StartTimer()
	}
	b.StopTimer()
	n := float64(b.N)
	b.ReportMetric(float64(disk.Nanoseconds())/n, "ns/disk-write")
	b.ReportMetric(float64(trip.Nanoseconds())/n, "ns/round-trip")
	b.ReportMetric(float64(mirror)/float64(disk+trip), "x-limit")
}

// benchmarkResync resyncs the whole volume; the limit is reading and writing it once,
// with requests of the same size, one after the other.
func benchmarkResync(b *testing.B, files bool) {
	p := limitPair(b, files)
	ctx := b.Context()
	size := p.alpha.vol.Size()
	buf := blockdev.AlignedBuffer(1 << 20)
	var mirror, limit time.Duration
	b.SetBytes(size)
	for b.Loop() {
		began := time.Now()
		require.NoError(b, p.beta.vol.Invalidate(ctx))
		require.NoError(b, p.alpha.res.WaitSync(ctx))
		require.NoError(b, p.beta.res.WaitSync(ctx))
		mirror += time.Since(began)
		b.StopTimer()
		began = time.Now()
		for off := int64(0); off+int64(len(buf)) <= size; off += int64(len(buf)) {
			_, err := p.alpha.disk.ReadAt(buf, off)
			require.NoError(b, err)
			_, err = p.beta.disk.WriteAt(buf, off)
			require.NoError(b, err)
		}
		limit += time.Since(began)
		b.StartTimer()
	}
	b.ReportMetric(float64(mirror)/float64(limit), "x-limit")
}

// echo answers every block of a size with 16 bytes, over loopback TCP.
type echo struct {
	conn net.Conn
	ack  [16]byte
}

func newEcho(b *testing.B, size int) *echo {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(b, err)
	peer, err := ln.Accept()
	require.NoError(b, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, size)
		for {
			if _, err := io.ReadFull(peer, buf); err != nil {
				return
			}
			if _, err := peer.Write(buf[:16]); err != nil {
				return
			}
		}
	}()
	b.Cleanup(func() {
		conn.Close()
		<-done
		peer.Close()
	})
	return &echo{conn: conn}
}

func (e *echo) trip(buf []byte) error {
	if _, err := e.conn.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(e.conn, e.ack[:])
	return err
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// BenchmarkWrite measures mirrored writes of two nodes in one process, memory to
// memory: over the network in memory and over loopback TCP, by request size and
// by how many requests are in flight.
func BenchmarkWrite(b *testing.B) {
	for _, tcp := range []bool{false, true} {
		for _, bm := range []struct{ size, depth int }{{4 << 10, 1}, {4 << 10, 32}, {64 << 10, 8}, {1 << 20, 1}, {1 << 20, 8}} {
			name := fmt.Sprintf("%s/%dKiB/QD%d", map[bool]string{false: "memory", true: "tcp"}[tcp], bm.size>>10, bm.depth)
			b.Run(name, func(b *testing.B) {
				p := newPair(b, pairOptions{tcp: tcp, size: 128 << 20})
				p.start(b)
				benchmarkIO(b, p, bm.size, bm.depth, func(buf []byte, off int64) error {
					_, err := p.alpha.vol.WriteAt(buf, off)
					return err
				})
			})
		}
	}
}

// BenchmarkWriteFiles measures the same on two files, over loopback TCP, with and
// without the flush at the end of every epoch.
func BenchmarkWriteFiles(b *testing.B) {
	for _, bm := range []struct {
		size, depth int
		noFlush     bool
	}{{4 << 10, 1, false}, {4 << 10, 1, true}, {4 << 10, 32, false}, {4 << 10, 32, true}, {1 << 20, 8, false}, {1 << 20, 8, true}} {
		b.Run(fmt.Sprintf("%dKiB/QD%d/flush=%v", bm.size>>10, bm.depth, !bm.noFlush), func(b *testing.B) {
			dir := b.TempDir()
			p := newPair(b, pairOptions{tcp: true, disks: func(name string) blockdev.Device {
				f, err := blockdev.Create(filepath.Join(dir, name), 128<<20, blockdev.Options{Preallocate: true})
				if err != nil {
					b.Skip(err)
				}
				return f
			}, config: func(_ string, cfg *Config) { cfg.Volumes[0].NoDiskFlushes = bm.noFlush }})
			p.start(b)
			benchmarkIO(b, p, bm.size, bm.depth, func(buf []byte, off int64) error {
				_, err := p.alpha.vol.WriteAt(buf, off)
				return err
			})
		})
	}
}

// BenchmarkRead measures local reads.
func BenchmarkRead(b *testing.B) {
	p := newPair(b, pairOptions{size: 128 << 20})
	p.start(b)
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprintf("4KiB/QD%d", depth), func(b *testing.B) {
			benchmarkIO(b, p, 4096, depth, func(buf []byte, off int64) error {
				_, err := p.alpha.vol.ReadAt(buf, off)
				return err
			})
		})
	}
}

// benchmarkIO runs b.N requests on depth goroutines, over 64 MiB of the volume.
func benchmarkIO(b *testing.B, p *pair, size, depth int, do func([]byte, int64) error) {
	const span = 64 << 20
	warm := blockdev.AlignedBuffer(1 << 20)
	for off := int64(0); off < span; off += 1 << 20 {
		if _, err := p.alpha.vol.WriteAt(warm, off); err != nil {
			b.Fatal(err)
		}
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for range depth {
		wg.Go(func() {
			buf := blockdev.AlignedBuffer(size)
			for {
				n := next.Add(1)
				if n > int64(b.N) {
					return
				}
				off := (n * 7919 * int64(size)) % span
				if err := do(buf, off); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}

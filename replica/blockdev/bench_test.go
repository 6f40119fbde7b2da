// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// BenchmarkQueue compares the kinds of Queue with 4 KiB random writes to a file of
// 64 MiB that was written before. Set TMPDIR to choose the disk.
func BenchmarkQueue(b *testing.B) {
	const size = 64 << 20
	f, err := Create(filepath.Join(b.TempDir(), "disk"), size, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	chunk := fill(1<<20, 1)
	for off := int64(0); off < size; off += 1 << 20 {
		if _, err := f.WriteAt(chunk, off); err != nil {
			b.Fatal(err)
		}
	}
	kinds := []struct {
		name string
		make func() (Queue, error)
	}{
		{"ring", func() (Queue, error) { return NewRing(f, 0) }},
		{"pool-8", func() (Queue, error) { return NewPoolQueue(f, 8), nil }},
		{"pool-32", func() (Queue, error) { return NewPoolQueue(f, 32), nil }},
	}
	for _, depth := range []int{1, 2, 4, 8, 32} {
		for _, k := range kinds {
			b.Run(fmt.Sprintf("qd%d/%s", depth, k.name), func(b *testing.B) {
				q, err := k.make()
				if err != nil {
					b.Skip(err)
				}
				defer q.Close()
				benchQueue(b, q, depth, size)
			})
		}
	}
	b.Run("qd1/do", func(b *testing.B) {
		q := NewPoolQueue(f, 1)
		defer q.Close()
		rng := rand.New(rand.NewPCG(1, 1))
		op := &Op{Kind: OpWrite, Buf: AlignedBuffer(4096)}
		b.ReportAllocs()
		for b.Loop() {
			op.Off = rng.Int64N(size/4096) * 4096
			if q.Do(op); op.Err != nil {
				b.Fatal(op.Err)
			}
		}
	})
}

// benchQueue keeps depth writes under way.
func benchQueue(b *testing.B, q Queue, depth int, size int64) {
	rng := rand.New(rand.NewPCG(1, 1))
	done := make(chan *Op, depth)
	for range depth {
		op := &Op{Kind: OpWrite, Buf: AlignedBuffer(4096), Done: func(op *Op) { done <- op }}
		done <- op
	}
	b.ReportAllocs()
	b.SetBytes(4096)
	for b.Loop() {
		op := <-done
		if op.Err != nil {
			b.Fatal(op.Err)
		}
		op.Off = rng.Int64N(size/4096) * 4096
		q.Submit(op)
	}
	for range depth {
		<-done
	}
}

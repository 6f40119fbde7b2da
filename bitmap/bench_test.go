// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap_test

import (
	"testing"

	"github.com/go-blockmirror/blockmirror/bitmap"
)

const tebibyteBits = 1 << 28

func BenchmarkSetClear(b *testing.B) {
	m := bitmap.New(tebibyteBits)
	var i uint64
	for b.Loop() {
		i = (i + 1000003) % tebibyteBits
		m.Set(i)
		m.Clear(i)
	}
}

func BenchmarkRange4MiB(b *testing.B) {
	m := bitmap.New(tebibyteBits)
	b.SetBytes(2 * 1024 / 8)
	for b.Loop() {
		m.SetRange(5*1024, 6*1024)
		m.ClearRange(5*1024, 6*1024)
	}
}

func BenchmarkSetAllClearAll1TiB(b *testing.B) {
	m := bitmap.New(tebibyteBits)
	b.SetBytes(2 * tebibyteBits / 8)
	for b.Loop() {
		m.SetAll()
		m.ClearAll()
	}
}

func BenchmarkCountRange1TiB(b *testing.B) {
	m := scattered(tebibyteBits)
	b.SetBytes(tebibyteBits / 8)
	for b.Loop() {
		m.CountRange(1, tebibyteBits-1)
	}
}

func BenchmarkNextSetEmpty1TiB(b *testing.B) {
	m := bitmap.New(tebibyteBits)
	for b.Loop() {
		m.NextSet(0)
	}
}

func BenchmarkNextSetLastBit1TiB(b *testing.B) {
	m := bitmap.New(tebibyteBits)
	m.Set(tebibyteBits - 1)
	for b.Loop() {
		m.NextSet(0)
	}
}

func BenchmarkNextClearFull1TiB(b *testing.B) {
	m := bitmap.New(tebibyteBits)
	m.SetAll()
	for b.Loop() {
		m.NextClear(0)
	}
}

// One set bit at the end of each page is the worst case of a search.
func BenchmarkRangesScattered1TiB(b *testing.B) {
	m := scattered(tebibyteBits)
	b.SetBytes(tebibyteBits / 8)
	for b.Loop() {
		for range m.Ranges() {
		}
	}
}

func BenchmarkOr1TiB(b *testing.B) {
	m, o := bitmap.New(tebibyteBits), bitmap.New(tebibyteBits)
	o.SetRange(1, tebibyteBits-1)
	b.SetBytes(tebibyteBits / 8)
	for b.Loop() {
		m.Or(o)
		b.StopTimer()
		m.ClearAll()
		b.StartTimer()
	}
}

func BenchmarkPage(b *testing.B) {
	m := bitmap.New(tebibyteBits)
	var page [4096]byte
	b.SetBytes(4096)
	for b.Loop() {
		m.Page(17, &page)
		m.LoadPage(17, &page)
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, bc := range []struct {
		name string
		m    *bitmap.Bitmap
	}{
		{"empty 1TiB", bitmap.New(tebibyteBits)},
		{"scattered 1TiB", scattered(tebibyteBits)},
		{"dense 1GiB", every(1<<18, 2)},
		{"runs of 50 in 64GiB", runs(1<<24, 50)},
	} {
		b.Run(bc.name, func(b *testing.B) {
			buf := make([]byte, 0, 4096)
			b.SetBytes(int64(bc.m.Len() / 8))
			for b.Loop() {
				for e := bitmap.NewEncoder(bc.m); !e.Done(); {
					if _, ok := e.Next(buf, 4080); !ok {
						e.Plain(buf, 4080)
					}
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, bc := range []struct {
		name string
		m    *bitmap.Bitmap
	}{
		{"scattered 1TiB", scattered(tebibyteBits)},
		{"runs of 50 in 64GiB", runs(1<<24, 50)},
	} {
		b.Run(bc.name, func(b *testing.B) {
			packets := encode(bc.m, 4080, true)
			into := bitmap.New(bc.m.Len())
			b.SetBytes(int64(bc.m.Len() / 8))
			for b.Loop() {
				d := bitmap.NewDecoder(into)
				for _, p := range packets {
					if err := p.decode(d, 4080); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func scattered(n uint64) *bitmap.Bitmap {
	m := bitmap.New(n)
	for i := uint64(bitmap.PageBits - 1); i < n; i += bitmap.PageBits {
		m.Set(i)
	}
	return m
}

func every(n, step uint64) *bitmap.Bitmap {
	m := bitmap.New(n)
	for i := uint64(0); i < n; i += step {
		m.Set(i)
	}
	return m
}

func runs(n, length uint64) *bitmap.Bitmap {
	m := bitmap.New(n)
	for i := uint64(0); i < n; i += 2 * length {
		m.SetRange(i, i+length)
	}
	return m
}

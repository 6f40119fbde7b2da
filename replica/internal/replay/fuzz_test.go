// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallRecordings are those that are played quickly, in a fixed order.
func smallRecordings(t testing.TB) []Recording {
	var list []Recording
	for _, path := range recordings(t) {
		if rec := load(t, path); len(rec) < 600 {
			list = append(list, rec)
		}
	}
	require.NotEmpty(t, list)
	return list
}

// mutator changes the packets of a recording from the at-th on, as how says: two bytes
// for each packet, what to do and where.
func mutator(at uint16, how []byte) func(int, []byte) [][]byte {
	var before []byte
	return func(n int, packet []byte) [][]byte {
		out := [][]byte{packet}
		if i := 2 * (n - int(at)); i >= 0 && i+1 < len(how) {
			what, where := how[i], int(how[i+1])
			b := slices.Clone(packet)
			switch what % 8 {
			case 0:
				b[where%len(b)] ^= what | 1
			case 1:
				b[where%len(b)] = 0xff
			case 2:
				b = b[:where%(len(b)+1)]
			case 3:
				out = nil // lost
			case 4:
				out = append(out, packet) // twice
			case 5:
				out = [][]byte{before, packet} // an old one again
			case 6:
				for j := range min(8, len(b)) { // a field of eight bytes
					b[(where+j)%len(b)] = what
				}
			}
			if what%8 < 3 || what%8 == 6 {
				out = [][]byte{b}
			}
		}
		before = packet
		return slices.DeleteFunc(out, func(b []byte) bool { return len(b) == 0 })
	}
}

// FuzzReplay plays a recording with packets that the kernel did not send: the core does
// not panic, touches nothing outside of its disks, and stays within its memory.
func FuzzReplay(f *testing.F) {
	list := sync.OnceValue(func() []Recording { return smallRecordings(f) })
	for i := uint16(0); int(i) < len(list()); i++ {
		if raceEnabled && i%8 != 0 {
			continue // one goroutine: nothing to find
		}
		f.Add(i, uint16(4), []byte{})
		f.Add(i, uint16(3), []byte{0, 2, 1, 20, 6, 12, 4, 0})
		f.Add(i, uint16(9), []byte{5, 0, 8, 16, 6, 24, 6, 16, 1, 9, 0, 22})
		f.Add(i, uint16(14), []byte{3, 0, 14, 16, 22, 18, 8, 30, 16, 34})
	}
	f.Fuzz(func(t *testing.T, which, at uint16, how []byte) {
		rec := list()[int(which)%len(list())]
		if err := Play(rec, Options{Mutate: mutator(at, how)}); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzReadRecording: the decoder of recordings is total.
func FuzzReadRecording(f *testing.F) {
	var b bytes.Buffer
	require.NoError(f, Recording{{Kind: Open}, {Kind: Receive, Packet: []byte{1}, Data: "z1 p3+4 r"}}.Write(&b))
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := ReadRecording(bytes.NewReader(b))
		if err != nil {
			require.ErrorIs(t, err, ErrRecording)
			return
		}
		for i := range rec {
			data, err := rec[i].Data.Bytes(1 << 20)
			require.LessOrEqual(t, len(data), 1<<20)
			if err != nil {
				require.ErrorIs(t, err, ErrRecording)
			}
		}
	})
}

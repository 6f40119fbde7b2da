// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fill returns n bytes that depend on seed.
func fill(n int, seed uint64) []byte {
	b := AlignedBuffer(n)
	rng := rand.New(rand.NewPCG(seed, 2))
	for i := 0; i+8 <= n; i += 8 {
		v := rng.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}

// misaligned returns n bytes that begin one byte behind an aligned place.
func misaligned(n int) []byte { return AlignedBuffer(n + 1)[1:] }

// requireContents compares the whole device with want.
func requireContents(t testing.TB, want []byte, dev Device) {
	t.Helper()
	got := AlignedBuffer(len(want))
	_, err := dev.ReadAt(got, 0)
	require.NoError(t, err)
	if bytes.Equal(want, got) {
		return
	}
	for i := 0; i < len(want); i += SectorSize {
		require.Equal(t, want[i:i+SectorSize], got[i:i+SectorSize], "sector at byte %d", i)
	}
}

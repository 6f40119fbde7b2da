// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestRegister: the theorem and porcupine, which tries every order, agree.
func TestRegister(t *testing.T) {
	results := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		h := regHistory{unknown: rapid.Bool().Draw(t, "unknown")}
		for range rapid.IntRange(0, 9).Draw(t, "operations") {
			o := regOp{write: rapid.Bool().Draw(t, "write"), value: rapid.Uint64Range(0, 4).Draw(t, "value"),
				call: rapid.Int64Range(0, 20).Draw(t, "call")}
			o.ret = o.call + rapid.Int64Range(0, 8).Draw(t, "takes")
			if o.write && rapid.IntRange(0, 5).Draw(t, "lost") == 0 {
				o.ret = never
			}
			h.ops = append(h.ops, o)
		}
		good, known := h.explained()
		require.True(t, known)
		results[good]++
		require.Equal(t, porcupine.CheckOperations(h.model(), h.operations()), good, "%+v", h)
	})
	few := 5
	if testing.Short() { // a fifth of the checks
		few = 0
	}
	require.Greater(t, results[true], few)
	require.Greater(t, results[false], few)
}

// TestRegisterMany: many writes at once, whose order only the last read tells, take no
// time.
func TestRegisterMany(t *testing.T) {
	h := regHistory{}
	for i := range int64(200) {
		h.ops = append(h.ops, regOp{write: true, value: uint64(i + 1), call: i, ret: 1000 + i})
	}
	h.ops = append(h.ops, regOp{value: 7, call: 2000, ret: 2001}, regOp{value: 7, call: 2002, ret: 2003})
	good, known := h.explained()
	require.True(t, good && known)
	h.ops = append(h.ops, regOp{value: 8, call: 2004, ret: 2005})
	good, known = h.explained()
	require.True(t, !good && known)
}

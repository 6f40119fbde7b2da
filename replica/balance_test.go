// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestReadBalancingNames(t *testing.T) {
	for b := ReadLocal; b <= ReadStriping1M; b++ {
		got, err := ParseReadBalancing(b.String())
		require.NoError(t, err)
		require.Equal(t, b, got)
	}
	require.Equal(t, "ReadBalancing(11)", (ReadStriping1M + 1).String())
	_, err := ParseReadBalancing("any")
	require.ErrorIs(t, err, ErrConfig)
}

// TestReadBalancing: reads go where the policy says, and see what was written.
func TestReadBalancing(t *testing.T) {
	defer goleak.VerifyNone(t)
	for policy, share := range map[ReadBalancing]int64{ReadLocal: 0, ReadRemote: 32, ReadRoundRobin: 16, ReadStriping64K: 16} {
		p := newPair(t, pairOptions{config: func(_ string, cfg *Config) { cfg.Volumes[0].ReadBalancing = policy }})
		p.start(t)
		data := randomBytes(4096, 5)
		for i := range int64(32) {
			_, err := p.alpha.vol.WriteAt(data, i<<16)
			require.NoError(t, err)
			got := make([]byte, 4096)
			_, err = p.alpha.vol.ReadAt(got, i<<16)
			require.NoError(t, err)
			require.Equal(t, data, got)
		}
		// Whatever was written is on both disks, and no longer read here for that.
		require.NoError(t, p.alpha.res.Demote(testContext(t)))
		require.NoError(t, p.alpha.res.Promote(testContext(t)))
		before, _ := p.beta.res.Status().Volume(0)
		for i := range int64(32) {
			_, err := p.alpha.vol.ReadAt(make([]byte, 4096), i<<16)
			require.NoError(t, err)
		}
		after, _ := p.beta.res.Status().Volume(0)
		require.Equal(t, share*4096, after.Read-before.Read, policy)
		p.stop(t)
	}
	_, err := Open(testContext(t), Config{Name: "r0", Volumes: []VolumeConfig{{ReadBalancing: ReadStriping1M + 1}}})
	require.ErrorIs(t, err, ErrConfig)
}

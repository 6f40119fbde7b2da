// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"testing"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
	"github.com/stretchr/testify/require"
)

// waitVolume waits until cond holds for a volume of a node.
func (n *node) waitVolume(id uint16, what string, cond func(VolumeStatus) bool) {
	n.t.Helper()
	err := n.res.wait(testContext(n.t), func(snap *core.Snapshot) (bool, error) {
		st, ok := statusOf(snap).Volume(id)
		require.True(n.t, ok)
		return cond(st), nil
	})
	require.NoError(n.t, err, "%s waits for %s", n.name, what)
}

// TestResyncAfterVolume: the second volume's resync waits for the first one's, on both
// nodes, whichever of them is configured so.
func TestResyncAfterVolume(t *testing.T) {
	for _, who := range []string{"alpha", "beta"} {
		t.Run(who, func(t *testing.T) {
			p := newPair(t, pairOptions{size: 4 << 20, config: func(name string, cfg *Config) {
				cfg.Volumes[0].Resync.Rate = 4 << 20
				second := VolumeConfig{ID: 1, Disk: blockdev.NewMemory(4 << 20), Resync: ResyncConfig{PlanAhead: -1, Rate: 8 << 20}}
				if name == who {
					second.ResyncAfter = &VolumeRef{"r0", 0}
				}
				require.NoError(t, CreateMetadata(Disk{Device: second.Disk}, (&pairOptions{}).metadata(t, second.Disk)))
				cfg.Volumes = append(cfg.Volumes, second)
			}})
			ctx := testContext(t)
			require.NoError(t, p.alpha.res.Promote(ctx))
			for id := range uint16(2) {
				_, err := p.alpha.res.Volume(id).WriteAt(randomBytes(3<<20, uint64(id)), 0)
				require.NoError(t, err)
			}
			p.connect(t)
			for _, n := range []*node{p.alpha, p.beta} {
				n.waitVolume(1, "the pause", func(st VolumeStatus) bool {
					return st.State.Conn == protocol.PausedSyncS || st.State.Conn == protocol.PausedSyncT
				})
				st, _ := n.res.Status().Volume(1)
				require.Equal(t, n.name == who, st.State.AftrISP)
				require.Equal(t, n.name != who, st.State.PeerISP)
			}
			first, _ := p.beta.res.Status().Volume(0)
			require.Equal(t, protocol.SyncTarget, first.State.Conn)
			n := map[string]*node{"alpha": p.alpha, "beta": p.beta}[who]
			err := n.res.Volume(1).ResumeSync(ctx)
			require.ErrorIs(t, err, ErrRefused)
			require.ErrorContains(t, err, "resync-after")
			require.NoError(t, p.beta.res.WaitSync(ctx))
			st, _ := n.res.Status().Volume(1)
			require.False(t, st.State.AftrISP)
			p.stop(t)
			p.requireSame(t)
		})
	}
}

// TestResyncAfterResource: so does one of another resource with the same ResyncOrder,
// until that one is closed.
func TestResyncAfterResource(t *testing.T) {
	order := &ResyncOrder{}
	make := func(name string, after *VolumeRef) *pair {
		return newPair(t, pairOptions{size: 4 << 20, config: func(node string, cfg *Config) {
			cfg.Name = name
			cfg.Volumes[0].Resync.Rate = 64 << 10 // it does not end in the time of this test
			if node == "beta" {
				cfg.ResyncOrder, cfg.Volumes[0].ResyncAfter = order, after
			}
		}})
	}
	one, two := make("one", nil), make("two", &VolumeRef{"one", 0})
	ctx := testContext(t)
	for _, p := range []*pair{one, two} {
		require.NoError(t, p.alpha.res.Promote(ctx))
		_, err := p.alpha.vol.WriteAt(randomBytes(3<<20, 1), 0)
		require.NoError(t, err)
		p.connect(t)
	}
	two.beta.waitVolume(0, "the pause", func(st VolumeStatus) bool { return st.State.Conn == protocol.PausedSyncT && st.State.AftrISP })
	require.NoError(t, one.beta.vol.PauseSync(ctx)) // a pause holds it, too
	two.beta.waitVolume(0, "the pause", func(st VolumeStatus) bool { return st.State.Conn == protocol.PausedSyncT && st.State.AftrISP })
	require.NoError(t, one.beta.res.Close())
	two.beta.waitVolume(0, "its turn", func(st VolumeStatus) bool { return st.State.Conn == protocol.SyncTarget && !st.State.AftrISP })
}

func TestResyncAfterLoop(t *testing.T) {
	cfg := Config{Name: "r0"}
	for i := range uint16(3) {
		d := blockdev.NewMemory(1 << 20)
		require.NoError(t, CreateMetadata(Disk{Device: d}, (&pairOptions{}).metadata(t, d)))
		cfg.Volumes = append(cfg.Volumes, VolumeConfig{ID: i, Disk: d, ResyncAfter: &VolumeRef{"r0", (i + 1) % 3}})
	}
	_, err := Open(t.Context(), cfg)
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, "leads back")

	cfg.Volumes[1].ResyncAfter = nil
	cfg.ResyncOrder = &ResyncOrder{}
	res, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	defer res.Close()
	_, err = Open(t.Context(), Config{Name: "r0", ResyncOrder: cfg.ResyncOrder, Volumes: []VolumeConfig{{ID: 2}}})
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, fmt.Sprint(VolumeRef{"r0", 2}))
}

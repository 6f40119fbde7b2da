// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/stretchr/testify/require"
)

// exchange writes on alpha, and waits until beta has it: what was sent to it before
// has then been read there.
func (p *pair) exchange(t *testing.T, seed uint64) {
	t.Helper()
	_, err := p.alpha.vol.WriteAt(randomBytes(64<<10, seed), int64(seed%16)<<20)
	require.NoError(t, err)
	require.NoError(t, p.alpha.vol.Flush(testContext(t)))
}

// TestChangeProtocol: the peer goes along with a change of the protocol and of the
// digest, data goes through before and after, and the nodes connect again.
func TestChangeProtocol(t *testing.T) {
	p := newPair(t, pairOptions{})
	p.start(t)
	ctx := testContext(t)
	seed := uint64(1)
	for _, proto := range []protocol.ReplicationProtocol{protocol.A, protocol.B, protocol.C} {
		for _, alg := range []string{"crc32c", "", "md5"} {
			require.NoError(t, p.alpha.res.ChangePeer(ctx, func(o *PeerConfig) {
				o.Protocol, o.IntegrityAlg, o.AfterSB0Pri = proto, alg, protocol.PolicyDiscardZeroChanges
			}))
			p.exchange(t, seed)
			require.NoError(t, p.alpha.res.Demote(ctx)) // everything sent has been answered
			for _, n := range []*node{p.alpha, p.beta} {
				got := n.res.peerOptions()
				require.Equal(t, proto, got.Protocol, n.name)
				require.Equal(t, alg, got.IntegrityAlg, n.name)
				require.Equal(t, protocol.PolicyDiscardZeroChanges, got.AfterSB0Pri, n.name)
				require.Equal(t, proto, n.res.Status().Volumes[0].Protocol)
			}
			require.NoError(t, p.alpha.res.Promote(ctx))
			seed++
		}
	}
	// The other way, with another one's alteration kept: beta adopted what it did not configure.
	require.NoError(t, p.beta.res.ChangePeer(ctx, func(o *PeerConfig) { o.PingInterval = 3 * time.Second }))
	require.NoError(t, p.alpha.res.Disconnect(ctx))
	require.NoError(t, p.alpha.res.Connect(ctx))
	require.NoError(t, p.alpha.res.WaitSync(ctx))
	p.exchange(t, seed)
	require.NoError(t, p.beta.res.WaitSync(ctx))
	p.stop(t)
	p.requireSame(t)
}

// TestChangeProtocolUnderWrites changes it while writes of the old one are under way.
func TestChangeProtocolUnderWrites(t *testing.T) {
	p := newPair(t, pairOptions{tcp: true})
	p.start(t)
	ctx := testContext(t)
	stop, done := make(chan struct{}), make(chan error, 4)
	for w := range int64(4) {
		go func() {
			buf := randomBytes(16<<10, uint64(w))
			for i := int64(0); ; i++ {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if _, err := p.alpha.vol.WriteAt(buf, w<<20+i%32<<14); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for i := range 30 {
		n := []*node{p.alpha, p.beta}[i%2]
		require.NoError(t, n.res.ChangePeer(ctx, func(o *PeerConfig) {
			o.Protocol = protocol.A + protocol.ReplicationProtocol(i%3)
			o.IntegrityAlg = []string{"", "crc32c"}[i/2%2]
		}))
	}
	close(stop)
	for range 4 {
		require.NoError(t, <-done)
	}
	require.NoError(t, p.alpha.res.Demote(ctx))
	require.Equal(t, protocol.Connected, p.alpha.res.Status().Peers[0].Conn)
	p.stop(t)
	p.requireSame(t)
}

func TestChangePeerRefused(t *testing.T) {
	p := newPair(t, pairOptions{config: func(_ string, cfg *Config) { cfg.Peers[0].MaxVersion = 97 }})
	ctx := testContext(t)
	for name, change := range map[string]func(*PeerConfig){
		"name":      func(o *PeerConfig) { o.Name = "gamma" },
		"transport": func(o *PeerConfig) { o.Transport = nil },
		"version":   func(o *PeerConfig) { o.MaxVersion = 0 },
		"range":     func(o *PeerConfig) { o.PingInterval = 1 },
		"protocol":  func(o *PeerConfig) { o.Protocol, o.OnCongestion = protocol.B, PullAhead },
		"digest":    func(o *PeerConfig) { o.IntegrityAlg = "rot13" },
	} {
		before := p.alpha.res.peerOptions()
		require.ErrorIs(t, p.alpha.res.ChangePeer(ctx, change), ErrConfig, name)
		require.Equal(t, before, p.alpha.res.peerOptions(), name)
	}
	p.connect(t)
	require.NoError(t, p.alpha.res.ChangePeer(ctx, func(o *PeerConfig) { o.PingInterval, o.MaxEpochSize = 20*time.Second, 7 }))
	require.Equal(t, 7, p.alpha.res.core.Net().MaxEpochSize)
	require.ErrorIs(t, p.alpha.res.ChangePeer(ctx, func(o *PeerConfig) { o.Protocol = protocol.A }), ErrRefused)
	require.NoError(t, p.alpha.res.Disconnect(ctx))
	require.NoError(t, p.alpha.res.ChangePeer(ctx, func(o *PeerConfig) { o.Protocol = protocol.A }))
}

// TestChangeVolume: a speed goes to the peer and counts for a resync under way;
// al-extents changes under writes; the rest is this node's.
func TestChangeVolume(t *testing.T) {
	p := newPair(t, pairOptions{config: func(_ string, cfg *Config) { cfg.Volumes[0].Resync.Rate = 64 << 10 }})
	ctx := testContext(t)
	require.NoError(t, p.alpha.res.Promote(ctx))
	_, err := p.alpha.vol.WriteAt(randomBytes(8<<20, 1), 0)
	require.NoError(t, err)
	p.connect(t)
	p.beta.waitVolume(0, "resync", func(st VolumeStatus) bool { return st.State.Conn == protocol.SyncTarget })
	done := make(chan error)
	go func() {
		var err error
		for i := int64(0); i < 64 && err == nil; i++ {
			_, err = p.alpha.vol.WriteAt(randomBytes(4096, uint64(i)), i%8*4<<20)
		}
		done <- err
	}()
	for _, n := range []int{67, 500, 100} {
		require.NoError(t, p.alpha.vol.Change(ctx, func(o *VolumeConfig) { o.ALExtents, o.OnIOError, o.NoDiskFlushes = n, PassOn, true }))
		require.Equal(t, byte('d'), p.alpha.res.Status().Volumes[0].WriteOrdering)
	}
	require.NoError(t, <-done)
	require.NoError(t, p.alpha.vol.Change(ctx, func(o *VolumeConfig) {
		o.Resync = ResyncConfig{Rate: 2 << 30, MaxRate: 3 << 30, FillTarget: -1, MinRate: -1}
	}))
	require.NoError(t, p.beta.res.WaitSync(ctx)) // which at 64 KiB/s takes two minutes
	got := p.beta.vol.options().Resync
	require.Equal(t, int64(2<<30), got.Rate)
	require.Equal(t, int64(3<<30), got.MaxRate)
	require.Equal(t, int64(-1), got.FillTarget)
	require.Equal(t, 2*time.Second, got.PlanAhead)

	require.ErrorIs(t, p.alpha.vol.Change(ctx, func(o *VolumeConfig) { o.Size = 1 << 20 }), ErrConfig)
	require.ErrorIs(t, p.alpha.vol.Change(ctx, func(o *VolumeConfig) { o.ALExtents = 5 }), ErrConfig)
	require.ErrorIs(t, p.alpha.vol.Change(ctx, func(o *VolumeConfig) { o.ResyncAfter = &VolumeRef{"r0", 0} }), ErrConfig)
	p.stop(t)
	p.requireSame(t)
	sb, _, err := metadata.Read(byteReader{p.alpha.disk}, metadata.Internal(), p.alpha.disk.Size())
	require.NoError(t, err)
	require.Equal(t, uint32(100), sb.ALExtents)
}

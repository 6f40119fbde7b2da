// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// coreConfig translates the configuration into the core's, which counts in DRBD's
// units, and fills in DRBD's defaults.
func (r *Resource) coreConfig() core.Config {
	out := core.Config{
		Name: r.cfg.Name, Rand: random, Buffers: r.buffers, Memory: blockdev.AlignedBuffer,
		NoData: core.NoData(r.cfg.OnNoData), SuspendLimit: r.cfg.SuspendLimit,
		Arbiter: r.cfg.Arbiter != nil, QuorumLostIOError: r.cfg.OnQuorumLost == QuorumError,
		Fencer: r.cfg.Fencer != nil, Handlers: r.cfg.Handlers.waits(),
	}
	if r.cfg.random != nil {
		out.Rand = r.cfg.random
	}
	for i := range r.cfg.Volumes {
		out.Volumes = append(out.Volumes, coreVolume(&r.cfg.Volumes[i]))
	}
	for i := range r.cfg.Peers {
		p := &r.cfg.Peers[i]
		out.Peers = append(out.Peers, core.PeerConfig{Name: p.Name})
		out.Net = coreNet(p)
	}
	return out
}

func coreVolume(v *VolumeConfig) core.VolumeConfig {
	s := &v.Resync
	out := core.VolumeConfig{
		Number: v.ID, Minor: or(v.Minor, int(v.ID)), UserSize: uint64(v.Size) / metadata.SectorSize,
		ALExtents: v.ALExtents, NoALUpdates: v.NoALUpdates, DiskFlushes: !v.NoDiskFlushes, DetachOnIO: core.OnIOError(v.OnIOError),
		DiskTimeout: v.DiskTimeout, NoDiscardZeroes: v.NoDiscardZeroesIfAligned,
		ReadBalancing: core.ReadBalancing(v.ReadBalancing), DiskDepth: v.QueueDepth,
		Fencing:     core.Fencing(v.Fencing),
		AssumeClean: v.AssumeClean,
		CMaxRate:    kib(s.MaxRate, defaultResyncMaxRate), CMinRate: kib(s.MinRate, defaultResyncMinRate),
		CPlanAhead: deci(s.PlanAhead, 20), CDelay: deci(s.DelayTarget, 10), CFill: defaultResyncFill,
		ThinBytes: uint32(s.ThinGranularity),
	}
	out.ResyncRate = kib(s.Rate, out.CMaxRate)
	switch {
	case s.FillTarget < 0:
		out.CFill = 0
	case s.FillTarget > 0:
		out.CFill = uint32(s.FillTarget / metadata.SectorSize)
	}
	return out
}

func coreNet(p *PeerConfig) core.NetOptions {
	n := core.NetOptions{
		Protocol: or(p.Protocol, protocol.C),
		Timeout:  timeoutOf(p), PingTimeout: or(p.PingTimeout, defaultPingTimeout),
		PingInterval: or(p.PingInterval, defaultPingInterval), KoCount: koCount(p),
		MaxEpochSize: or(p.MaxEpochSize, defaultMaxEpochSize), MaxBuffers: or(p.MaxBuffers, defaultMaxBuffers),
		UseRLE: !p.DisableRLE, IntegrityAlg: p.IntegrityAlg, VerifyAlg: p.VerifyAlg,
		CSumsAlg: p.CSumsAlg, CSumsAfterCrashOnly: p.CSumsAfterCrashOnly, CRAMAlg: p.CRAMAlg, Secret: p.Secret,
		AllowTwoPrimary: p.AllowTwoPrimaries,
		AfterSB0:        p.AfterSB0Pri, AfterSB1: p.AfterSB1Pri, AfterSB2: p.AfterSB2Pri,
		OnCongestion: core.OnCongestion(p.OnCongestion), CongestionFill: uint64(p.CongestionFill) / metadata.SectorSize,
		CongestionExtents: or(p.CongestionExtents, defaultCongestionExtents),
		RRConflict:        p.RRConflict, AlwaysASBP: p.AlwaysASBP, MaxVersion: p.MaxVersion,
	}
	return n
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// kib turns bytes per second into KiB/s: 0 for def, negative for 0.
func kib(rate int64, def uint32) uint32 {
	switch {
	case rate == 0:
		return def
	case rate < 0:
		return 0
	}
	return uint32(rate >> 10)
}

// deci turns a time into tenths of a second: 0 for def, negative for 0.
func deci(d time.Duration, def uint32) uint32 {
	switch {
	case d == 0:
		return def
	case d < 0:
		return 0
	}
	return uint32(d / (100 * time.Millisecond))
}

func koCount(p *PeerConfig) int { return max(or(p.KoCount, defaultKoCount), 0) }

// timeoutOf is how long a send on the meta stream may make no progress.
func timeoutOf(p *PeerConfig) time.Duration { return or(p.Timeout, defaultTimeout) }

// dataTimeout is the same for the data stream, 0 for ever.
func dataTimeout(p *PeerConfig) time.Duration {
	return timeoutOf(p) * time.Duration(koCount(p))
}

// maxBuffersOf is the bound on memory for payloads, in bytes.
func maxBuffersOf(cfg *Config) int64 {
	n := defaultMaxBuffers
	if len(cfg.Peers) > 0 {
		n = or(cfg.Peers[0].MaxBuffers, n)
	}
	return int64(n) * 4096
}

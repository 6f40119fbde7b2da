// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// Config describes one resource. Zero values of options stand for DRBD's
// defaults (spec: behaviour 10) where the field says so.
type Config struct {
	Name    string
	Volumes []VolumeConfig // in ascending order of Number
	Peers   []PeerConfig   // at most one with protocol 101 and metadata v08
	Net     NetOptions

	NoData       NoData        // "on-no-data-accessible"
	SuspendLimit time.Duration // susp_nod and susp_fen: requests fail after that time; 0 for never

	Arbiter           bool // somebody answers EventQuorum calls: ask before this node goes on alone
	QuorumLostIOError bool // without the arbiter's consent requests fail instead of waiting
	Fencer            bool // somebody runs fence-peer
	Handlers          bool // somebody runs the other handlers, and says how they ended

	// Rand returns 64 random bits. It makes identifiers and challenges.
	Rand func() uint64
	// Buffers holds data read for the peer.
	Buffers Allocator
	// Memory makes n bytes as disks like them; nil for any.
	Memory func(n int) []byte

	noPeer bool // Peers was empty
}

// VolumeConfig describes one volume.
type VolumeConfig struct {
	Number      uint16 // volume number, the same on both nodes
	Minor       int    // shown in Status only
	UserSize    uint64 // "size": sectors, 0 for as large as possible
	ALExtents   int    // "al-extents": 0 for as many as the volume has, 1237 to 6433
	NoALUpdates bool   // "al-updates no": no log; after a crash as Primary everything is copied
	DiskFlushes bool   // "disk-flushes"
	DetachOnIO  OnIOError
	DiskTimeout time.Duration // "disk-timeout": for one operation, 0 for none
	// "discard-zeroes-if-aligned no": a disk that does not promise zeroes is not trusted.
	NoDiscardZeroes bool
	// "read-balancing"; DiskDepth is how many requests make the own disk congested, 0 for 64.
	ReadBalancing ReadBalancing
	DiskDepth     int
	Fencing       Fencing
	// The speed of a resync. Zero is a value here, not a default.
	ResyncRate  uint32 // "resync-rate": KiB/s, at the start, or always if CPlanAhead is 0; then 0 is no limit
	CPlanAhead  uint32 // "c-plan-ahead": 0.1 s; 0 for a fixed rate
	CDelay      uint32 // "c-delay-target": 0.1 s, if CFill is 0
	CFill       uint32 // "c-fill-target": sectors
	CMaxRate    uint32 // "c-max-rate": KiB/s, of the controller; 0 is no limit
	CMinRate    uint32 // "c-min-rate": KiB/s; 0 for no throttling
	ThinBytes   uint32 // "rs-discard-granularity": bytes, a power of two of 4 KiB to 1 MiB, 0 for off
	AssumeClean bool   // first size: bits of new storage stay clear (both disks are known to be identical)
}

// OnIOError is the disk option on-io-error.
type OnIOError uint8

// The values of on-io-error.
const (
	IODetach OnIOError = iota
	IOPassOn
	IOCallLocalIOError
)

// PeerConfig describes the other node.
type PeerConfig struct{ Name string }

// NetOptions are the options of the connection (spec: behaviour 10.1).
type NetOptions struct {
	Protocol                     protocol.ReplicationProtocol
	Timeout                      time.Duration // "timeout"
	PingTimeout                  time.Duration
	PingInterval                 time.Duration // "ping-int"
	KoCount                      int           // 0 disables the request timeout
	MaxEpochSize                 int
	MaxBuffers                   int // pages of 4 KiB
	UseRLE                       bool
	IntegrityAlg                 string // "data-integrity-alg"
	VerifyAlg                    string // "verify-alg"
	CSumsAlg                     string // "csums-alg"; at least 64 bits, see weakChecksum
	CSumsAfterCrashOnly          bool   // "csums-after-crash-only"
	weakAdopted                  bool   // CSumsAlg is the peer's, and too short to be used here
	CRAMAlg                      string // "cram-hmac-alg"
	Secret                       string
	AllowTwoPrimary              bool
	AfterSB0, AfterSB1, AfterSB2 protocol.Policy
	RRConflict                   metadata.RRConflict
	AlwaysASBP                   bool
	OnCongestion                 OnCongestion      // with protocol A
	CongestionFill               uint64            // sectors under way, 0 for no limit
	CongestionExtents            int               // extents of the activity log in use, 0 for no limit
	MaxVersion                   protocol.Version  // 0 for protocol.MaxVersion; lower values are for tests and old peers
	WithoutFeatures              protocol.Features // not offered to the peer
}

// withDefaults replaces zero values by DRBD's defaults (spec: behaviour 10).
func (cfg Config) withDefaults() Config {
	n := &cfg.Net
	setDefault(&n.Protocol, protocol.ProtocolC)
	setDefault(&n.Timeout, 6*time.Second)
	setDefault(&n.PingTimeout, 500*time.Millisecond)
	setDefault(&n.PingInterval, 10*time.Second)
	setDefault(&n.MaxEpochSize, 2048)
	setDefault(&n.MaxBuffers, 2048)
	setDefault(&n.MaxVersion, protocol.MaxVersion)
	if len(cfg.Peers) == 0 {
		// A resource without a peer is one that never leaves StandAlone.
		cfg.Peers, cfg.noPeer = []PeerConfig{{}}, true
	}
	cfg.Volumes = append([]VolumeConfig(nil), cfg.Volumes...)
	return cfg
}

func setDefault[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// check refuses what the core cannot do.
func (cfg *Config) check() error {
	if cfg.Rand == nil {
		return fmt.Errorf("%w: Rand is nil", ErrConfig)
	}
	if len(cfg.Volumes) == 0 {
		return fmt.Errorf("%w: no volume; a connection without volumes never gets past WFReportParams", ErrConfig)
	}
	if len(cfg.Peers) > 1 {
		return fmt.Errorf("%w: %d peers: metadata v08 and protocol 101 know one", ErrConfig, len(cfg.Peers))
	}
	if n := cfg.Net.Protocol; n < protocol.ProtocolA || n > protocol.ProtocolC {
		return fmt.Errorf("%w: replication protocol %d: want A, B or C", ErrConfig, n)
	}
	if cfg.Net.AllowTwoPrimary && cfg.Net.Protocol != protocol.ProtocolC {
		return fmt.Errorf("%w: allow-two-primaries needs protocol C, not %v", ErrConfig, cfg.Net.Protocol)
	}
	if v := cfg.Net.MaxVersion; v < protocol.MinVersion || v > protocol.MaxVersion {
		return fmt.Errorf("%w: protocol version %d: want %d..%d", ErrConfig, v, protocol.MinVersion, protocol.MaxVersion)
	}
	for i := range cfg.Volumes {
		if cfg.Volumes[i].Fencing == FencingResourceAndStonith && cfg.Net.Protocol == protocol.ProtocolA {
			return fmt.Errorf("%w: fencing resource-and-stonith needs protocol B or C: with A acknowledged writes may be missing on the peer", ErrConfig)
		}
	}
	for i := 1; i < len(cfg.Volumes); i++ {
		if cfg.Volumes[i-1].Number >= cfg.Volumes[i].Number {
			return fmt.Errorf("%w: volumes must be in ascending order of their numbers", ErrConfig)
		}
	}
	for i := range cfg.Volumes {
		if p := cfg.Volumes[i].ReadBalancing; p >= readPolicies {
			return fmt.Errorf("%w: read-balancing %d", ErrConfig, p)
		}
		if n := cfg.Volumes[i].ThinBytes; !validThin(n) {
			return fmt.Errorf("%w: rs-discard-granularity %d: want a power of two from 4096 to %d, or 0", ErrConfig, n, protocol.MaxBlockBytes)
		}
	}
	return cfg.Net.checkAlgorithms()
}

// checkAlgorithms refuses names that no digest has, and checksums that are too short.
func (n *NetOptions) checkAlgorithms() error {
	for _, o := range []struct{ option, alg string }{
		{"data-integrity-alg", n.IntegrityAlg}, {"verify-alg", n.VerifyAlg}, {"csums-alg", n.CSumsAlg},
	} {
		d, err := protocol.LookupDigest(o.alg)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrConfig, o.option, err)
		}
		if o.option == "csums-alg" && weakChecksum(d) && !n.weakAdopted {
			return fmt.Errorf("%w: csums-alg %s has %d bits: one block in 2^%[3]d that differs would be taken for equal and never copied; use xxhash64, md5 or a sha",
				ErrConfig, o.alg, d.Size()*8)
		}
	}
	return nil
}

// weakChecksum: a resync that trusts this checksum loses data too easily. It leaves
// out what the checksum calls equal and clears the mark, so that nothing will look at
// the block again: with 32 bits, 1 TiB of scattered blocks has one chance in sixteen of
// a block that silently stays old. (An online verify with it only misses a difference.)
func weakChecksum(d protocol.Digest) bool { return d.Size() > 0 && d.Size() < 8 }

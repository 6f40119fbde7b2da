// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
	"github.com/go-blockmirror/blockmirror/transport"
)

// Config describes one resource as this node sees it. The zero value of every
// option stands for DRBD's default (spec: behaviour 10), so that a Config that
// names the volumes and the peer is complete.
type Config struct {
	// Name is the resource's name, as "r0". It appears in logs and errors; it is
	// not sent to the peer and need not be the same there.
	Name string

	// Volumes are the replicated devices, with different IDs, in any order. All
	// volumes of a resource share one connection and one write order: data that
	// depends on data of another volume belongs into the same resource.
	Volumes []VolumeConfig

	// Peers is the other node, or empty for a resource that is never connected.
	// Metadata v08 and protocol 101 know one peer.
	Peers []PeerConfig

	// OnNoData says what happens to requests that no disk of the two nodes can
	// serve ("on-no-data-accessible").
	OnNoData OnNoData
	// SuspendLimit bounds how long requests wait while I/O is suspended for lack of
	// data, for fencing or for the arbiter; then they fail with ErrSuspended, as do those
	// that come later, until there is data again. 0 stands for no limit: they wait.
	// It does not apply to SuspendIO.
	SuspendLimit time.Duration

	// Fencer is asked to fence the peer; see VolumeConfig.Fencing. Without one, a policy
	// other than DontCare can be satisfied only by the peer's return, a graceful
	// Disconnect, or Force.
	Fencer Fencer
	// Handlers are called at the turning points in the life of the resource.
	Handlers Handlers
	// HandlerTimeout bounds each call of Fencer and Handlers; 0 stands for a minute.
	HandlerTimeout time.Duration

	// Arbiter decides which node goes on when they lose each other; nil for DRBD's
	// behaviour: every node decides for itself, by the rules of its disk and its fencing.
	Arbiter Arbiter
	// ArbiterTimeout bounds each question; 0 stands for ten seconds.
	ArbiterTimeout time.Duration
	// OnQuorumLost says what becomes of a Primary's requests when the arbiter did not
	// let it go on.
	OnQuorumLost OnQuorumLost

	// ResyncOrder is shared by the resources of this node whose resyncs wait for
	// each other; nil for one of the resource's own. See VolumeConfig.ResyncAfter.
	ResyncOrder *ResyncOrder

	// Logger receives what the resource has to say; nil discards it. It is
	// called on one goroutine of the resource's own, in order, and may block
	// without harm: lines that find 1024 others waiting are dropped and counted.
	Logger *slog.Logger

	random func() uint64 // nil but in tests
}

// VolumeConfig describes one replicated device.
type VolumeConfig struct {
	// ID is the volume number, 0 to 65535, the same on both nodes.
	ID uint16

	// Minor is the device number that [Status.String] prints; 0 stands for ID.
	// Nothing else depends on it.
	Minor int

	// Disk is the backing device; nil makes the volume diskless: all its I/O
	// goes to the peer. The resource does not close it: whoever opened it closes
	// it, after Close or Detach has returned.
	Disk blockdev.Device

	// MetaDisk says where the metadata lies. The zero value is
	// metadata.Internal(), at the end of Disk. Metadata must exist: see
	// [CreateMetadata].
	MetaDisk metadata.Location

	// MetaDevice is the device that holds the metadata for the locations
	// FlexExternal and Indexed; nil for metadata.Internal(). It may be shared by
	// several volumes with different indexes.
	MetaDevice blockdev.Device

	// Size is the size of the volume in bytes ("size"); 0 for as large as the
	// two disks allow. It is rounded down to whole sectors.
	Size int64

	// ALExtents is how many extents of 4 MiB may be written to at one time
	// without a metadata write ("al-extents"), 67 to 65534, but no more than the log on
	// disk has room for: 6433 in its usual 32 KiB. More extents mean fewer metadata
	// writes and a longer resync after a crash.
	//
	// 0 stands for as many as the volume has, within 1237, which is DRBD's default, and
	// 6433. With fewer, writes all over the volume wait for the log to change: on a
	// volume of 20 GiB and files as disks, one write of 4 KiB at a time takes 1.9 times
	// as long with 1237 (BenchmarkScatteredWrites). The price is paid after a crash of
	// the Primary: up to 25 GiB are copied, four minutes with the default MaxRate, where
	// it were 5 GiB; choose fewer if that is too long.
	ALExtents int

	// NoALUpdates does without the activity log ("al-updates no"): no metadata write
	// before a write to a new place, and after a crash as Primary everything is
	// copied (spec: behaviour 5.5).
	NoALUpdates bool
	// NoDiskFlushes switches off the flushes at epoch ends ("disk-flushes no"): the
	// write ordering is "drain" instead of "flush". It is safe only if the disk's write
	// cache survives a power failure. Of DRBD's other two, "barrier" is gone since
	// Linux 2.6.36, and "none" is one that its manual warns of (docs/epochs.md).
	NoDiskFlushes bool

	// OnIOError says what happens when the disk fails ("on-io-error"). The zero
	// value detaches it and goes on over the peer.
	OnIOError OnIOError

	// DiskTimeout is how long one request to the disk, or to its metadata, may take
	// ("disk-timeout"), 100 ms to 10 minutes; 0, the default, for as long as it takes. A
	// disk that is slower is detached by force, whatever OnIOError says (but its handler
	// runs with CallLocalIOError), and the application goes on over the peer. The disk
	// can be attached again when it has answered everything.
	//
	// It is dangerous, as drbd.conf(5) says: what the disk was given it may still do. A
	// disk that is only slow, as a RAID that looks for bad sectors is, is given up for
	// nothing, and its copy is out of date. A request that hangs may be done at any
	// later time, even after another program has taken the disk: Attach of the same
	// device waits for that to be over, but cannot know of a device that was closed and
	// opened under another name. Choose a time well above what the disk may take for
	// its own recovery, which is 30 s and more for many, and below Timeout times
	// KoCount of the peer, who otherwise gives up this node first.
	//
	// The kernel's driver hands the buffer of such a request back to its owner, and the
	// machine must be stopped when the disk answers late. Here the disk never has the
	// application's buffers while DiskTimeout is set: requests work on copies, and are
	// done on goroutines of their own. That costs throughput on a fast disk.
	DiskTimeout time.Duration

	// NoDiscardZeroesIfAligned ("discard-zeroes-if-aligned no") is about disks that can
	// deallocate but do not promise that what they deallocated reads as zeroes
	// (blockdev.Limits): with it their ranges are zeroed. Without it, the default, they
	// are trusted to do so with whole units of their own, and the rest is zeroed. Either
	// way a range that was discarded must read the same on both nodes.
	NoDiscardZeroesIfAligned bool

	// Fencing says what is done about a peer that is lost ("fencing").
	Fencing Fencing

	// ReadBalancing says who serves a read that both nodes can serve
	// ("read-balancing"). The zero value reads the own disk.
	ReadBalancing ReadBalancing

	// AssumeClean says that the disks of both nodes are identical already, so
	// that the first attach of fresh metadata marks nothing out of sync. If that
	// is not true, the nodes differ and nothing will notice.
	AssumeClean bool

	// Resync sets the speed of resyncs.
	Resync ResyncConfig

	// ResyncAfter names a volume of this node: while that one is in a resync, or is
	// paused, this one's waits ("resync-after"). nil for no dependency. A volume
	// of another resource is found if both have the same Config.ResyncOrder. A
	// dependency that leads back to the volume is refused.
	ResyncAfter *VolumeRef

	// QueueDepth is how many disk requests may run at one time; 0 stands for 64.
	QueueDepth int
}

// ResyncConfig sets the speed of a resync (spec: behaviour 6.4). The target drives:
// ten times a second a controller says how much it may ask for, so that FillTarget
// bytes (or DelayTarget's worth of data) are on their way. Rates are bytes per
// second, rounded down to KiB.
//
// All but MinRate are sent to the peer, which adopts them, as DRBD does: configure
// both nodes alike. A change at run time counts on both.
//
// Three defaults are not DRBD's. DRBD's let a resync start with 250 KiB/s, grow by 25
// KiB/s in a step, and fall back to 250 KiB/s for as long as the application writes:
// minutes to reach the speed of a disk, and months for one TiB under load. All that
// time there is one good copy. In the simulator 16 MiB over 100 MiB/s, while the
// application writes 2 MiB/s, take 39 s with DRBD's and 1.4 s with these.
type ResyncConfig struct {
	// Rate is the speed at which the controller starts, or the fixed speed if
	// PlanAhead is negative ("resync-rate"); 0 stands for MaxRate (DRBD: 250
	// KiB/s). A start that is too fast is corrected within PlanAhead.
	Rate int64
	// PlanAhead is the time in which the controller corrects a deviation
	// ("c-plan-ahead"), a multiple of 100 ms up to 30 s; 0 stands for 2 s, a
	// negative value for a fixed rate.
	PlanAhead time.Duration
	// DelayTarget is the time data spends on the way ("c-delay-target"), a
	// multiple of 100 ms up to 10 s; 0 stands for 1 s. It counts if FillTarget is negative.
	DelayTarget time.Duration
	// FillTarget is the number of bytes on the way ("c-fill-target"), up to 512
	// MiB; 0 stands for 1 MiB (DRBD: 50 KiB, less than one request of protocol
	// 100), a negative value for none: DelayTarget counts.
	FillTarget int64
	// MaxRate is never exceeded by the controller ("c-max-rate"), 250 KiB/s to 4
	// GiB/s; 0 stands for 100 MiB/s.
	MaxRate int64
	// MinRate is granted to the resync while the disk is busy for the application,
	// or with writes of the peer's ("c-min-rate"); above it the resync makes way.
	// 0 stands for 10 MiB/s (DRBD: 250 KiB/s); a negative value means that the
	// resync does not make way. It is this node's own, as source and as target.
	MinRate int64
	// ThinGranularity makes this node, as target, ask for aligned runs of that many
	// bytes in such a way that the source can answer "all zero" ("rs-discard-
	// granularity"): holes stay holes, on disks that can deallocate, and zeroes do
	// not travel. A power of two from 4 KiB to 1 MiB, the unit in which the disk
	// deallocates; 0 switches it off. It needs the peer's consent (the feature
	// THIN_RESYNC), and has no effect on a resync by checksums.
	ThinGranularity int
}

// OnIOError says what a node does when its disk fails (spec: behaviour 5.8).
type OnIOError uint8

// The values of on-io-error.
const (
	// Detach drops the disk; the volume goes on over the peer.
	Detach OnIOError = iota
	// PassOn keeps the disk. It is Inconsistent from then on if the peer has a good one;
	// else it stays the best there is, and the application gets the error.
	PassOn
	// CallLocalIOError publishes the event local-io-error and drops the disk.
	CallLocalIOError
)

// OnNoData says what happens to requests that nobody can serve (spec: behaviour 5.10).
type OnNoData uint8

// The values of on-no-data-accessible.
const (
	// NoDataError fails them.
	NoDataError = OnNoData(core.NoDataIOError)
	// NoDataSuspend lets them wait until there is good data again: the peer is
	// back, or the own disk. Requests that were under way are done again then. So
	// that nothing is missing, a write of a node without a good disk of its own completes only
	// when it is durable on the peer's disk.
	NoDataSuspend = OnNoData(core.NoDataSuspendIO)
)

// String returns the name used in drbd.conf.
func (o OnNoData) String() string {
	switch o {
	case NoDataError:
		return "io-error"
	case NoDataSuspend:
		return "suspend-io"
	}
	return fmt.Sprintf("OnNoData(%d)", uint8(o))
}

// OnQuorumLost says what becomes of the requests of a Primary that the arbiter did not
// let go on.
type OnQuorumLost uint8

// The values of OnQuorumLost, with the names of DRBD 9's on-no-quorum.
const (
	// QuorumSuspend lets them wait for the peer, the arbiter or the administrator.
	QuorumSuspend OnQuorumLost = iota
	// QuorumError fails them with ErrNoQuorum.
	QuorumError
)

// String returns DRBD 9's name.
func (o OnQuorumLost) String() string {
	switch o {
	case QuorumSuspend:
		return "suspend-io"
	case QuorumError:
		return "io-error"
	}
	return fmt.Sprintf("OnQuorumLost(%d)", uint8(o))
}

// String returns the name used in drbd.conf.
func (o OnIOError) String() string {
	switch o {
	case Detach:
		return "detach"
	case PassOn:
		return "pass_on"
	case CallLocalIOError:
		return "call-local-io-error"
	}
	return fmt.Sprintf("OnIOError(%d)", uint8(o))
}

// OnCongestion says what a Primary with protocol.A does about a congested link (spec:
// behaviour 5.12).
type OnCongestion uint8

// The values of on-congestion.
const (
	// Block lets the application wait for the link.
	Block OnCongestion = iota
	// PullAhead writes alone and only tells the peer which blocks. The peer is
	// Behind, and Outdated, until a resync, which begins when the link has been
	// empty for a second, has ended.
	PullAhead
	// DisconnectCongested goes StandAlone: ErrCongested.
	DisconnectCongested
)

// String returns the name used in drbd.conf.
func (o OnCongestion) String() string {
	switch o {
	case Block:
		return "block"
	case PullAhead:
		return "pull-ahead"
	case DisconnectCongested:
		return "disconnect"
	}
	return fmt.Sprintf("OnCongestion(%d)", uint8(o))
}

// PeerConfig describes the other node and the connection to it. Options marked
// "both" must be equal on both nodes, else neither connects (spec: behaviour 4.2).
type PeerConfig struct {
	// Name is the peer's name, as "beta", for logs, errors and Status.
	Name string

	// Transport forms the connection: package transport. nil is allowed for a
	// resource that stays StandAlone. The resource does not close it.
	Transport transport.Transport

	// Protocol says when a write is complete; both. 0 stands for protocol.C:
	// when it is on both disks.
	Protocol protocol.ReplicationProtocol

	// Timeout is how long a send may make no progress ("timeout"); 0 stands for
	// 6 s. Times KoCount it is how long the peer may take for a request.
	Timeout time.Duration
	// KoCount: 0 stands for 7, a negative value switches the request timeout off.
	KoCount int
	// PingInterval is the idle time before the peer is asked for a sign of life
	// ("ping-int"); 0 stands for 10 s.
	PingInterval time.Duration
	// PingTimeout is the time for the answer; 0 stands for 500 ms.
	PingTimeout time.Duration

	// MaxEpochSize is the largest number of writes between two barriers, 1 to
	// 20000; 0 stands for 2048.
	MaxEpochSize int
	// MaxBuffers bounds the memory for what the peer sends, and for what is read
	// for the peer, in pages of 4 KiB, 32 to 131072; 0 stands for 2048 (8 MiB each).
	MaxBuffers int

	// OnCongestion says what happens when a link is too slow for protocol.A
	// ("on-congestion"): the zero value waits for it. The link is congested when
	// CongestionFill bytes are sent and not acknowledged ("congestion-fill", up to
	// 10 GiB; 0 for no limit), or CongestionExtents extents of the activity log
	// are in use ("congestion-extents", 67 to 65534; 0 stands for 1237). The size
	// of the send buffer ("sndbuf-size") is the Transport's.
	OnCongestion      OnCongestion
	CongestionFill    int64
	CongestionExtents int

	// DisableRLE sends bitmaps uncompressed ("use-rle no").
	DisableRLE bool
	// IntegrityAlg protects data on the way ("data-integrity-alg"), as
	// "crc32c"; both. Empty for none.
	IntegrityAlg string
	// VerifyAlg is the checksum of [Volume.Verify] ("verify-alg"), as "crc32c",
	// "xxhash64", "md5" or "sha256"; both. Empty for none: then no verify can run.
	// While connected, a change on the peer is adopted.
	VerifyAlg string
	// CSumsAlg makes a resync compare checksums first and copy only what differs
	// ("csums-alg"), as "xxhash64", "md5" or "sha1"; both. Empty for none. It pays
	// where the link is slow and marked blocks are mostly equal, as after a crash.
	//
	// Checksums of 32 bits, as crc32c, are refused, although DRBD takes them: what a
	// checksum calls equal is not copied and its mark is cleared, for ever. With 32
	// bits, one resync of 1 TiB of scattered blocks has a chance of one in sixteen to
	// leave a block of old data behind that nobody will look for. A peer that sets
	// one at run time is served; this node, as target, then copies everything.
	CSumsAlg string
	// CSumsAfterCrashOnly uses CSumsAlg only for a resync after the crash of a
	// Primary ("csums-after-crash-only"), whose activity log marks far more than
	// what was written. Elsewhere what is marked was written, and is copied.
	CSumsAfterCrashOnly bool
	// CRAMAlg ("cram-hmac-alg"), as "sha256", and Secret authenticate the peer;
	// both. Empty for none.
	CRAMAlg, Secret string

	// AllowTwoPrimaries lets both nodes be Primary at the same time
	// ("allow-two-primaries"); both, and only with protocol.C. Concurrent writes of
	// both nodes to the same blocks are put in order, so that the disks stay equal;
	// what is safe beyond that is up to the application, as on any shared disk: a
	// cluster file system, live migration. If the two lose each other, that is a
	// split brain, always (spec: behaviour 5.6, wire 8.13; docs/two-primaries.md).
	AllowTwoPrimaries bool
	// AfterSB0Pri, AfterSB1Pri and AfterSB2Pri say what to do about a split brain
	// that is found with no, one or two Primaries; both. The zero value is
	// disconnect: a human decides.
	AfterSB0Pri, AfterSB1Pri, AfterSB2Pri protocol.Policy
	// AlwaysASBP applies these policies even if the common ancestor is old.
	AlwaysASBP bool
	// RRConflict says what to do if a resync would overwrite a Primary's disk.
	RRConflict metadata.RRConflict

	// MaxVersion limits the protocol version, 86 to 101; 0 for no limit. It is
	// for tests and for peers with defects.
	MaxVersion protocol.Version
}

// Defaults that DRBD's tools know and the core does not (spec: behaviour 10).
const (
	defaultTimeout      = 6 * time.Second
	defaultPingTimeout  = 500 * time.Millisecond
	defaultPingInterval = 10 * time.Second
	defaultKoCount      = 7
	defaultMaxEpochSize = 2048
	defaultMaxBuffers   = 2048
	defaultQueueDepth   = 64

	defaultCongestionExtents = 1237

	maxSecret = 64 // characters of a shared secret
)

// Our own defaults: see ResyncConfig.
const (
	defaultResyncMaxRate = 100 << 10                     // KiB/s
	defaultResyncMinRate = 10 << 10                      // KiB/s
	defaultResyncFill    = 1 << 20 / metadata.SectorSize // sectors
)

// validate says which field cannot be. What only the core or the metadata can
// judge is left to them.
func (cfg *Config) validate() error {
	if len(cfg.Volumes) == 0 {
		return fmt.Errorf("%w: Volumes is empty: a resource has at least one volume", ErrConfig)
	}
	if len(cfg.Peers) > 1 {
		return fmt.Errorf("%w: %d Peers: metadata v08 and protocol 101 know one", ErrConfig, len(cfg.Peers))
	}
	if cfg.Arbiter != nil && len(cfg.Peers) == 0 {
		return fmt.Errorf("%w: an Arbiter decides between two nodes, and Peers is empty", ErrConfig)
	}
	if err := firstError(
		inRange("OnNoData", int64(cfg.OnNoData), 0, int64(NoDataSuspend)),
		inRange("OnQuorumLost", int64(cfg.OnQuorumLost), 0, int64(QuorumError)),
		inRange("SuspendLimit", int64(cfg.SuspendLimit), 0, 1<<62),
		inRange("HandlerTimeout", int64(cfg.HandlerTimeout), 0, 1<<62),
		inRange("ArbiterTimeout", int64(cfg.ArbiterTimeout), 0, 1<<62),
	); err != nil {
		return err
	}
	seen := map[uint16]bool{}
	for i := range cfg.Volumes {
		v := &cfg.Volumes[i]
		if seen[v.ID] {
			return fmt.Errorf("%w: two volumes have the ID %d", ErrConfig, v.ID)
		}
		seen[v.ID] = true
		if err := v.validate(); err != nil {
			return fmt.Errorf("volume %d: %w", v.ID, err)
		}
	}
	for i := range cfg.Peers {
		if err := cfg.Peers[i].validate(); err != nil {
			return fmt.Errorf("peer %q: %w", cfg.Peers[i].Name, err)
		}
	}
	return nil
}

func (v *VolumeConfig) validate() error {
	if v.Disk != nil {
		if err := checkDisk(v.MetaDisk, v.MetaDevice); err != nil {
			return err
		}
	}
	r := &v.Resync
	return firstError(
		inRange("Size", v.Size, 0, metadata.MaxSectors*metadata.SectorSize),
		inRange("Minor", int64(v.Minor), 0, 1<<20-1),
		inRangeOr0("ALExtents", int64(v.ALExtents), 67, 65534),
		inRange("QueueDepth", int64(v.QueueDepth), 0, 1<<16),
		inRangeOr0("DiskTimeout", int64(v.DiskTimeout), int64(100*time.Millisecond), int64(10*time.Minute)),
		inRange("Fencing", int64(v.Fencing), 0, int64(ResourceAndStonith)),
		inRange("OnIOError", int64(v.OnIOError), 0, int64(CallLocalIOError)),
		inRange("ReadBalancing", int64(v.ReadBalancing), 0, int64(ReadStriping1M)),
		inRangeOr0("Resync.Rate", r.Rate, 1<<10, 8<<30),
		inRangeIfSet("Resync.PlanAhead", int64(r.PlanAhead), int64(100*time.Millisecond), int64(30*time.Second)),
		inRangeOr0("Resync.DelayTarget", int64(r.DelayTarget), int64(100*time.Millisecond), int64(10*time.Second)),
		inRangeIfSet("Resync.FillTarget", r.FillTarget, metadata.SectorSize, 512<<20),
		inRangeOr0("Resync.MaxRate", r.MaxRate, 250<<10, 4<<30),
		inRangeOr0("Resync.ThinGranularity", int64(r.ThinGranularity), 4<<10, 1<<20),
		inRangeIfSet("Resync.MinRate", r.MinRate, 1<<10, 4<<30),
	)
}

func (p *PeerConfig) validate() error {
	if p.Protocol != 0 && (p.Protocol < protocol.A || p.Protocol > protocol.C) {
		return fmt.Errorf("%w: Protocol %d: want protocol.A, B or C", ErrConfig, p.Protocol)
	}
	if p.AllowTwoPrimaries && p.Protocol != 0 && p.Protocol != protocol.C {
		return fmt.Errorf("%w: AllowTwoPrimaries needs protocol.C, not %v", ErrConfig, p.Protocol)
	}
	if (p.CRAMAlg == "") != (p.Secret == "") {
		return fmt.Errorf("%w: CRAMAlg and Secret go together: set both or none", ErrConfig)
	}
	if _, err := protocol.LookupDigest(p.CRAMAlg); err != nil {
		return fmt.Errorf("%w: CRAMAlg: %w", ErrConfig, err)
	}
	if len(p.Secret) > maxSecret {
		return fmt.Errorf("%w: Secret is %d characters long, want at most %d", ErrConfig, len(p.Secret), maxSecret)
	}
	if p.OnCongestion != Block && p.Protocol != protocol.A {
		return fmt.Errorf("%w: OnCongestion %v needs Protocol A: with B and C a write waits for the peer anyway (155)", ErrConfig, p.OnCongestion)
	}
	policies := metadata.Policies{
		AfterSB0Pri: metadata.SplitBrainPolicy(p.AfterSB0Pri), AfterSB1Pri: metadata.SplitBrainPolicy(p.AfterSB1Pri),
		AfterSB2Pri: metadata.SplitBrainPolicy(p.AfterSB2Pri), RRConflict: p.RRConflict,
	}
	if err := policies.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return firstError(
		inRangeOr0("Timeout", int64(p.Timeout), int64(100*time.Millisecond), int64(time.Minute)),
		inRange("KoCount", int64(p.KoCount), -1<<62, 200),
		inRangeOr0("PingInterval", int64(p.PingInterval), int64(time.Second), int64(2*time.Minute)),
		inRangeOr0("PingTimeout", int64(p.PingTimeout), int64(100*time.Millisecond), int64(30*time.Second)),
		inRangeOr0("MaxEpochSize", int64(p.MaxEpochSize), 1, 20000),
		inRangeOr0("MaxBuffers", int64(p.MaxBuffers), 32, 131072),
		inRange("OnCongestion", int64(p.OnCongestion), 0, int64(DisconnectCongested)),
		inRange("CongestionFill", p.CongestionFill, 0, 10<<30),
		inRangeOr0("CongestionExtents", int64(p.CongestionExtents), 67, 65534),
		inRangeOr0("MaxVersion", int64(p.MaxVersion), int64(protocol.MinVersion), int64(protocol.MaxVersion)),
	)
}

// checkDisk refuses a location without its device, and the other way round.
func checkDisk(loc metadata.Location, meta blockdev.Device) error {
	if loc.IsInternal() && meta != nil {
		return fmt.Errorf("%w: MetaDevice is set but MetaDisk is %s: use metadata.FlexExternal() or metadata.Indexed(n)", ErrConfig, loc)
	}
	if !loc.IsInternal() && meta == nil {
		return fmt.Errorf("%w: MetaDisk is %s but MetaDevice is nil", ErrConfig, loc)
	}
	return nil
}

func inRange(field string, v, lo, hi int64) error {
	if v < lo || v > hi {
		return fmt.Errorf("%w: %s is %d, want %d to %d", ErrConfig, field, v, lo, hi)
	}
	return nil
}

func inRangeOr0(field string, v, lo, hi int64) error {
	if v == 0 {
		return nil
	}
	return inRange(field, v, lo, hi)
}

// inRangeIfSet is for options whose zero is a default and whose negative values are "off".
func inRangeIfSet(field string, v, lo, hi int64) error {
	if v <= 0 {
		return nil
	}
	return inRange(field, v, lo, hi)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"strconv"
	"strings"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

const decisecond = 100 * time.Millisecond

// orOff returns n, or -1 for 0: replica's zero values stand for defaults, and its
// negative ones switch off.
func orOff(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

func itoa(n int) string { return strconv.Itoa(n) }

// mappings are the options that a node obeys. Numbers come in the option's unit: KiB
// and sectors where the table of options has these.
var mappings = map[place]func(m *mapper, o Option, n int64){
	{"net", "protocol"}: func(m *mapper, o Option, _ int64) {
		m.peer.Protocol = protocol.A + protocol.ReplicationProtocol(o.Value[0]-'A')
	},
	{"net", "timeout"}:      func(m *mapper, _ Option, n int64) { m.peer.Timeout = time.Duration(n) * decisecond },
	{"net", "ko-count"}:     func(m *mapper, _ Option, n int64) { m.peer.KoCount = int(orOff(n)) },
	{"net", "ping-int"}:     func(m *mapper, _ Option, n int64) { m.peer.PingInterval = time.Duration(n) * time.Second },
	{"net", "ping-timeout"}: func(m *mapper, _ Option, n int64) { m.pingTimeout(time.Duration(n) * decisecond) },
	{"net", "connect-int"}:  func(m *mapper, _ Option, n int64) { m.node.TCP.ConnectInterval = time.Duration(n) * time.Second },
	{"net", "socket-check-timeout"}: func(m *mapper, _ Option, n int64) {
		m.node.TCP.SocketCheckTimeout = time.Duration(n) * decisecond
	},
	{"net", "sndbuf-size"}:        func(m *mapper, _ Option, n int64) { m.node.TCP.SndBuf = int(n) },
	{"net", "rcvbuf-size"}:        func(m *mapper, _ Option, n int64) { m.node.TCP.RcvBuf = int(n) },
	{"net", "max-buffers"}:        func(m *mapper, _ Option, n int64) { m.peer.MaxBuffers = int(n) },
	{"net", "max-epoch-size"}:     func(m *mapper, _ Option, n int64) { m.peer.MaxEpochSize = int(n) },
	{"net", "cram-hmac-alg"}:      func(m *mapper, o Option, _ int64) { m.peer.CRAMAlg = o.Value },
	{"net", "shared-secret"}:      func(m *mapper, o Option, _ int64) { m.peer.Secret = o.Value },
	{"net", "data-integrity-alg"}: func(m *mapper, o Option, _ int64) { m.peer.IntegrityAlg = o.Value },
	{"net", "use-rle"}:            func(m *mapper, o Option, _ int64) { m.peer.DisableRLE = o.Value == "no" },
	{"net", "always-asbp"}:        func(m *mapper, o Option, _ int64) { m.peer.AlwaysASBP = o.Value == "yes" },
	{"net", "after-sb-0pri"}:      func(m *mapper, o Option, _ int64) { m.peer.AfterSB0Pri = m.policy(o) },
	{"net", "after-sb-1pri"}:      func(m *mapper, o Option, _ int64) { m.peer.AfterSB1Pri = m.policy(o) },
	{"net", "after-sb-2pri"}:      func(m *mapper, o Option, _ int64) { m.peer.AfterSB2Pri = m.policy(o) },
	{"net", "rr-conflict"}:        func(m *mapper, o Option, _ int64) { m.rrConflict(o) },
	{"net", "on-congestion"}: func(m *mapper, o Option, _ int64) {
		m.peer.OnCongestion = map[string]replica.OnCongestion{
			"pull-ahead": replica.PullAhead, "disconnect": replica.DisconnectCongested,
		}[o.Value]
	},
	{"net", "congestion-fill"}:    func(m *mapper, _ Option, n int64) { m.peer.CongestionFill = n * metadata.SectorSize },
	{"net", "congestion-extents"}: func(m *mapper, _ Option, n int64) { m.peer.CongestionExtents = int(n) },
	{"net", "verify-alg"}:         func(m *mapper, o Option, _ int64) { m.peer.VerifyAlg = o.Value },
	{"net", "csums-alg"}:          func(m *mapper, o Option, _ int64) { m.csums(o) },
	{"net", "csums-after-crash-only"}: func(m *mapper, o Option, _ int64) {
		m.peer.CSumsAfterCrashOnly = o.Value == "yes"
	},
	{"net", "allow-two-primaries"}: func(m *mapper, o Option, _ int64) { m.peer.AllowTwoPrimaries = o.Value == "yes" },
	{"net", "fencing"}: func(m *mapper, o Option, _ int64) {
		for i := range m.node.Config.Volumes {
			m.node.Config.Volumes[i].Fencing = fencing(o)
		}
	},

	{"options", "on-no-data-accessible"}: func(m *mapper, o Option, _ int64) {
		m.node.Config.OnNoData = map[string]replica.OnNoData{"suspend-io": replica.NoDataSuspend, "io-error": replica.NoDataError}[o.Value]
	},
	{"options", "on-no-quorum"}: func(m *mapper, o Option, _ int64) {
		m.node.Config.OnQuorumLost = map[string]replica.OnQuorumLost{"suspend-io": replica.QuorumSuspend, "io-error": replica.QuorumError}[o.Value]
	},

	{"disk", "fencing"}:                   func(m *mapper, o Option, _ int64) { m.vol.Fencing = fencing(o) },
	{"disk", "rs-discard-granularity"}:    func(m *mapper, o Option, n int64) { m.thin(o, n) },
	{"disk", "size"}:                      func(m *mapper, _ Option, n int64) { m.vol.Size = n * metadata.SectorSize },
	{"disk", "on-io-error"}:               func(m *mapper, o Option, _ int64) { m.onIOError(o) },
	{"disk", "disk-timeout"}:              func(m *mapper, _ Option, n int64) { m.vol.DiskTimeout = time.Duration(n) * decisecond },
	{"disk", "discard-zeroes-if-aligned"}: func(m *mapper, o Option, _ int64) { m.vol.NoDiscardZeroesIfAligned = o.Value == "no" },
	{"disk", "read-balancing"}:            func(m *mapper, o Option, _ int64) { m.readBalancing(o) },
	{"disk", "al-updates"}:                func(m *mapper, o Option, _ int64) { m.vol.NoALUpdates = o.Value == "no" },
	{"disk", "disk-flushes"}:              func(m *mapper, o Option, _ int64) { m.vol.NoDiskFlushes = o.Value == "no" },
	{"disk", "al-extents"}:                func(m *mapper, _ Option, n int64) { m.vol.ALExtents = int(n) },
	{"disk", "resync-after"}:              func(m *mapper, o Option, _ int64) { m.resyncAfter(o) },
	{"disk", "resync-rate"}:               func(m *mapper, _ Option, n int64) { m.vol.Resync.Rate = n << 10 },
	{"disk", "c-plan-ahead"}: func(m *mapper, _ Option, n int64) {
		m.vol.Resync.PlanAhead = time.Duration(orOff(n)) * decisecond
	},
	{"disk", "c-delay-target"}: func(m *mapper, _ Option, n int64) { m.vol.Resync.DelayTarget = time.Duration(n) * decisecond },
	{"disk", "c-fill-target"}:  func(m *mapper, _ Option, n int64) { m.vol.Resync.FillTarget = orOff(n) * metadata.SectorSize },
	{"disk", "c-max-rate"}:     func(m *mapper, _ Option, n int64) { m.vol.Resync.MaxRate = n << 10 },
	{"disk", "c-min-rate"}:     func(m *mapper, _ Option, n int64) { m.vol.Resync.MinRate = orOff(n) << 10 },

	{"startup", "wfc-timeout"}:      func(m *mapper, _ Option, n int64) { m.node.Startup.Timeouts.WFC = time.Duration(n) * time.Second },
	{"startup", "degr-wfc-timeout"}: func(m *mapper, _ Option, n int64) { m.node.Startup.Timeouts.Degraded = time.Duration(n) * time.Second },
	{"startup", "outdated-wfc-timeout"}: func(m *mapper, _ Option, n int64) {
		m.node.Startup.Timeouts.Outdated = time.Duration(n) * time.Second
	},
	{"startup", "wait-after-sb"}: func(m *mapper, o Option, _ int64) { m.node.Startup.WaitAfterSplitBrain = o.Value == "yes" },
	{"startup", "become-primary-on"}: func(m *mapper, o Option, _ int64) {
		for _, name := range strings.Fields(o.Value) {
			if h, err := m.r.Host(name); name == "both" || err == nil && h == m.host {
				m.node.Startup.Primary = true
			}
		}
	},
}

// notes are for options that make no difference here, with the reason.
var notes = map[place]string{
	{"options", "cpu-mask"}:        "the Go runtime places its threads; use taskset",
	{"net", "unplug-watermark"}:    "it has no effect in DRBD 8.4 either",
	{"net", "tcp-cork"}:            "packets that wait are sent together without it",
	{"disk", "disk-barrier"}:       "flushes are used instead, which is as safe",
	{"disk", "disk-drain"}:         "writes that depend on each other are always waited for",
	{"disk", "md-flushes"}:         "metadata is always flushed",
	{"disk", "max-bio-bvecs"}:      "a limit of the kernel's",
	{"disk", "use-bmbv"}:           "a limit of the kernel's",
	{"disk", "disable-write-same"}: "write-same is not used",

	{"startup", "stacked-timeouts"}: "it is for resources that are stacked on each other",
}

// handler has a command run, if that takes no shell.
func (m *mapper) handler(name string, o Option) {
	n := m.node
	argv, err := SplitCommand(o.Value)
	if err != nil {
		m.problem(o.Pos, Unsupported, o.Written, err.Error())
		if n.Handlers != nil {
			delete(n.Handlers.Commands, name) // the last one in the file counts
		}
		return
	}
	if n.Handlers == nil {
		n.Handlers = &replica.ExecHandlers{
			Commands: map[string][]string{}, Disks: map[uint16]string{}, Conf: m.r.config.File,
		}
		for i, d := range n.Disks {
			if d.Path != "" {
				n.Handlers.Disks[n.Config.Volumes[i].ID] = d.Path
			}
		}
	}
	n.Handlers.Commands[name] = argv
}

// csums maps csums-alg, unless its checksums are too short for that.
func (m *mapper) csums(o Option) {
	if d, err := protocol.LookupDigest(o.Value); err == nil && d.Size() < 8 {
		m.problem(o.Pos, NoEffect, o.Written, "checksums of 32 bits would leave old data behind one day; a resync copies all that is marked. Use xxhash64, md5 or a sha")
		return
	}
	m.peer.CSumsAlg = o.Value
}

// thin maps rs-discard-granularity.
func (m *mapper) thin(o Option, n int64) {
	if n != 0 && (n < 4096 || n&(n-1) != 0) {
		m.problem(o.Pos, NoEffect, o.Written, "not a power of two from 4 KiB to 1 MiB: a resync sends zeroes as data")
		return
	}
	m.vol.Resync.ThinGranularity = int(n)
}

// fencing maps fencing, which DRBD 8.4 has for each disk and DRBD 9 for a connection.
func fencing(o Option) replica.Fencing {
	return map[string]replica.Fencing{
		"dont-care": replica.DontCare, "resource-only": replica.ResourceOnly, "resource-and-stonith": replica.ResourceAndStonith,
	}[o.Value]
}

// pingTimeout is an option of the peer and of the handshake.
func (m *mapper) pingTimeout(d time.Duration) {
	m.peer.PingTimeout, m.node.TCP.PingTimeout = d, d
}

// policy maps a policy for split brains, as this node sees it.
func (m *mapper) policy(o Option) protocol.Policy {
	if name, ok := strings.CutPrefix(o.Value, "discard-node-"); ok {
		h, err := m.r.Host(name)
		switch {
		case err != nil:
			m.errs.at(o.Pos, ErrInvalid, "resource %s has no host %q", m.r.Name, name)
		case h == m.host:
			return protocol.PolicyDiscardLocal
		default:
			return protocol.PolicyDiscardRemote
		}
		return protocol.PolicyDisconnect
	}
	p, err := protocol.ParsePolicy(o.Value)
	if err != nil {
		m.errs.at(o.Pos, ErrInvalid, "%s: there is no policy %q", o.Name, o.Value)
	}
	return p
}

func (m *mapper) rrConflict(o Option) {
	switch o.Value {
	case "disconnect":
		m.peer.RRConflict = metadata.RRDisconnect
	case "call-pri-lost":
		m.peer.RRConflict = metadata.RRCallPriLost
	case "violently":
		m.peer.RRConflict = metadata.RRViolently
	default:
		m.problem(o.Pos, Only9, o.Written, "this node does as with rr-conflict disconnect")
	}
}

// readBalancing maps read-balancing.
func (m *mapper) readBalancing(o Option) {
	b, err := replica.ParseReadBalancing(o.Value)
	if err != nil {
		m.errs.at(o.Pos, ErrInvalid, "%s: there is no policy %q", o.Name, o.Value)
	}
	m.vol.ReadBalancing = b
}

// onIOError maps on-io-error, and what 0.7 knew in its place.
func (m *mapper) onIOError(o Option) {
	switch o.Value {
	case "detach":
		m.vol.OnIOError = replica.Detach
	case "pass_on":
		m.vol.OnIOError = replica.PassOn
	case "call-local-io-error":
		m.vol.OnIOError = replica.CallLocalIOError
	case "panic":
		m.vol.OnIOError = replica.CallLocalIOError
		m.problem(o.Pos, Legacy, o.Written, "no version since 0.7 stops the machine by itself; it is taken for call-local-io-error, and the handler local-io-error can stop it")
	}
}

func (m *mapper) resyncAfter(o Option) {
	if o.Value == "-1" {
		return
	}
	name, number, _ := strings.Cut(o.Value, "/")
	ref := replica.VolumeRef{Resource: name}
	if number != "" {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			m.errs.at(o.Pos, ErrInvalid, "resync-after is followed by a resource, or RESOURCE/VOLUME")
			return
		}
		ref.Volume = uint16(n)
	}
	m.vol.ResyncAfter = &ref
}

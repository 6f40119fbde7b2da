// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// option is where a setting goes.
type option struct {
	stage *stage
	n     *actor
	cfg   *replica.Config
	v     *replica.VolumeConfig
	p     *replica.PeerConfig
}

// settings are DRBD's options.
var settings = map[string]func(o *option, value string) error{
	"protocol": func(o *option, s string) error {
		o.p.Protocol = map[string]protocol.ReplicationProtocol{"A": protocol.A, "B": protocol.B, "C": protocol.C}[s]
		return nil
	},
	"version": func(o *option, s string) error {
		n, err := number(s)
		o.p.MaxVersion = protocol.Version(n)
		return err
	},
	"resync-rate": func(o *option, s string) (err error) {
		o.v.Resync.Rate, err = number(s)
		return err
	},
	"c-max-rate": func(o *option, s string) (err error) {
		o.v.Resync.Rate, o.v.Resync.PlanAhead = 0, 0
		o.v.Resync.MaxRate, err = number(s)
		return err
	},
	"c-min-rate": func(o *option, s string) (err error) {
		o.v.Resync.MinRate, err = number(s)
		return err
	},
	"al-extents": func(o *option, s string) error {
		n, err := number(s)
		o.v.ALExtents = int(n)
		return err
	},
	"on-io-error": func(o *option, s string) (err error) {
		o.v.OnIOError, err = named[replica.OnIOError](s)
		return err
	},
	"disk-timeout": func(o *option, s string) (err error) {
		o.v.DiskTimeout, err = time.ParseDuration(s)
		return err
	},
	"on-no-data-accessible": func(o *option, s string) (err error) {
		o.cfg.OnNoData, err = named[replica.OnNoData](s)
		return err
	},
	"fencing": func(o *option, s string) (err error) {
		o.v.Fencing, err = named[replica.Fencing](s)
		return err
	},
	// The exit code of a fence-peer handler; 4 really outdates the other node.
	"fence-peer": func(o *option, s string) error {
		n, err := number(s)
		o.cfg.Fencer = &scriptFencer{peer: o.stage.nodes[other(o.n.name)], result: replica.FenceResult(n)}
		return err
	},
	// A register that both nodes reach.
	"arbiter": func(o *option, s string) error {
		if s != "yes" {
			return errors.New("want yes")
		}
		o.cfg.Arbiter = &scriptArbiter{name: o.n.name, owners: o.stage.owners}
		return nil
	},
	"on-congestion": func(o *option, s string) (err error) {
		o.p.OnCongestion, err = named[replica.OnCongestion](s)
		return err
	},
	"congestion-fill": func(o *option, s string) (err error) {
		o.p.CongestionFill, err = number(s)
		return err
	},
	"congestion-extents": func(o *option, s string) error {
		n, err := number(s)
		o.p.CongestionExtents = int(n)
		return err
	},
	"ko-count": func(o *option, s string) error {
		n, err := number(s)
		o.p.KoCount = int(n)
		return err
	},
	"verify-alg": func(o *option, s string) error { o.p.VerifyAlg = s; return nil },
	"csums-alg":  func(o *option, s string) error { o.p.CSumsAlg = s; return nil },
	"allow-two-primaries": func(o *option, s string) error {
		o.p.AllowTwoPrimaries = s == "yes"
		return nil
	},
	"ping-int": func(o *option, s string) (err error) {
		o.p.PingInterval, err = time.ParseDuration(s)
		return err
	},
	"timeout": func(o *option, s string) (err error) {
		o.p.Timeout, err = time.ParseDuration(s)
		return err
	},
	"after-sb-0pri": func(o *option, s string) (err error) {
		o.p.AfterSB0Pri, err = splitPolicy(s)
		return err
	},
	"after-sb-1pri": func(o *option, s string) (err error) {
		o.p.AfterSB1Pri, err = splitPolicy(s)
		return err
	},
	"after-sb-2pri": func(o *option, s string) (err error) {
		o.p.AfterSB2Pri, err = splitPolicy(s)
		return err
	},
}

// named finds a value by the name that it prints as.
func named[T interface {
	~uint8 | ~uint32 | ~int
	String() string
}](name string) (T, error) {
	for v := T(0); v < 32; v++ {
		if v.String() == name {
			return v, nil
		}
	}
	return 0, errors.New("no such value")
}

func splitPolicy(name string) (protocol.Policy, error) { return named[protocol.Policy](name) }

// scriptFencer stands for a fence-peer handler.
type scriptFencer struct {
	peer   *actor
	result replica.FenceResult
}

func (f *scriptFencer) FencePeer(ctx context.Context, _ replica.HandlerCall) (replica.FenceResult, error) {
	if f.result == replica.PeerOutdated && f.peer.other != nil {
		if err := f.peer.other.perform(nil, "outdate", &args{}); err != nil {
			return replica.PeerUnreachable, nil
		}
	}
	if f.result == replica.PeerOutdated && f.peer.res != nil {
		if err := f.peer.vol().Outdate(ctx); err != nil {
			return replica.PeerUnreachable, nil
		}
	}
	return f.result, nil
}

func (f *scriptFencer) UnfencePeer(context.Context, replica.HandlerCall) error { return nil }

// scriptArbiter is one node's way to the register that both share.
type scriptArbiter struct {
	name   string
	owners *sync.Map
}

func (a *scriptArbiter) Decide(_ context.Context, q replica.Question) (bool, error) {
	owner, _ := a.owners.LoadOrStore(q.Key(), a.name)
	return owner == a.name, nil
}

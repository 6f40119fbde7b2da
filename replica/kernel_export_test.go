// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// What the tests with a kernel need of the inside.

// RaceEnabled says that the race detector runs.
const RaceEnabled = raceEnabled

// CoreConfig returns the core's configuration of a resource.
func CoreConfig(cfg Config) core.Config { return (&Resource{cfg: cfg}).coreConfig() }

// CoreLimits returns what the core is told of a device.
func CoreLimits(d blockdev.Device) core.DiskLimits { return limits(d) }

// CoreSnapshot returns the core's state.
func CoreSnapshot(r *Resource) core.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.core.Snapshot()
}

// CoreConnectOptions returns what options stand for.
func CoreConnectOptions(opts ...ConnectOption) (o core.ConnectOptions) {
	for _, opt := range opts {
		opt.connect(&o)
	}
	return o
}

// RecordRandom makes a resource that is opened with cfg tell what random numbers it draws.
func RecordRandom(cfg *Config, tell func(uint64)) {
	cfg.random = func() uint64 {
		v := random()
		tell(v)
		return v
	}
}

// CoreVerifyOptions returns what options stand for.
func CoreVerifyOptions(opts ...VerifyOption) core.VerifyOptions {
	o := verifyOptions{core: core.VerifyOptions{Resume: true}}
	for _, opt := range opts {
		opt.verify(&o)
	}
	return o.core
}

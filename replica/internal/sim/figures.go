// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Figures count what runs did.
type Figures struct {
	Runs, Steps, Writes, Reads, Flushes int
	Virtual                             time.Duration
	Faults                              map[string]int // faults, commands and what came of them, by name
}

// Add sums up.
func (f *Figures) Add(o Figures) {
	f.Runs, f.Steps, f.Writes, f.Reads, f.Flushes = f.Runs+o.Runs, f.Steps+o.Steps, f.Writes+o.Writes, f.Reads+o.Reads, f.Flushes+o.Flushes
	f.Virtual += o.Virtual
	if f.Faults == nil {
		f.Faults = map[string]int{}
	}
	for k, v := range o.Faults {
		f.Faults[k] += v
	}
}

// Rate says how much that was in a time that really passed.
func (f Figures) Rate(real time.Duration) string {
	return fmt.Sprintf("%d runs in %v, %.0f runs/s, %.0f steps/s, %.1f virtual hours", f.Runs, real.Round(time.Second),
		float64(f.Runs)/real.Seconds(), float64(f.Steps)/real.Seconds(), f.Virtual.Hours())
}

// String lists everything, a line each.
func (f Figures) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d runs, %d steps, %d writes, %d reads, %d flushes, %v of virtual time\n", f.Runs, f.Steps, f.Writes, f.Reads, f.Flushes, f.Virtual.Round(time.Second))
	for _, k := range slices.Sorted(maps.Keys(f.Faults)) {
		fmt.Fprintf(&b, "  %8d %s\n", f.Faults[k], k)
	}
	return b.String()
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Script is a whole run: a seed for what chance decides, the options, and what
// happens when. A script is text:
//
//	# anything
//	seed 4711
//	protocol C
//	volumes 1
//	+3ms write 81
//	+0s crash 5577006791947779410
//
// The number of an action decides everything that the action chooses; so an action
// does much the same wherever it stands, and a script stays useful when others are
// taken out.
type Script struct {
	Seed    uint64
	Focus   string // of the plan that made it, see PlanFocus
	Options Options
	Actions []Action
}

// Action is one step of a script: after Gap, do Name, choosing by Arg.
type Action struct {
	Gap  time.Duration
	Name string
	Arg  uint64
}

// setting is one option of a script by name.
type setting struct {
	get func(o *Options) string
	set func(o *Options, v string) error
}

func number[T int | int64 | uint32 | uint64](p func(o *Options) *T) setting {
	return setting{
		func(o *Options) string { return strconv.FormatInt(int64(*p(o)), 10) },
		func(o *Options, v string) error { n, err := strconv.ParseInt(v, 10, 64); *p(o) = T(n); return err },
	}
}

func toggle(p func(o *Options) *bool) setting {
	return setting{
		func(o *Options) string { return strconv.FormatBool(*p(o)) },
		func(o *Options, v string) (err error) { *p(o), err = strconv.ParseBool(v); return err },
	}
}

func text(p func(o *Options) *string) setting {
	return setting{
		func(o *Options) string { return *p(o) },
		func(o *Options, v string) error { *p(o) = v; return nil },
	}
}

func span8[T protocol.Policy | protocol.ReplicationProtocol | protocol.Version | core.OnIOError | metadata.RRConflict | core.OnCongestion](p func(o *Options) *T) setting {
	return setting{
		func(o *Options) string { return strconv.FormatInt(int64(*p(o)), 10) },
		func(o *Options, v string) error { n, err := strconv.ParseInt(v, 10, 32); *p(o) = T(n); return err },
	}
}

func lapse(p func(o *Options) *time.Duration) setting {
	return setting{
		func(o *Options) string { return p(o).String() },
		func(o *Options, v string) (err error) { *p(o), err = time.ParseDuration(v); return err },
	}
}

var settings = map[string]setting{
	"volumes":   number(func(o *Options) *int { return &o.Volumes }),
	"bytes":     number(func(o *Options) *int64 { return &o.DiskBytes }),
	"extents":   number(func(o *Options) *int { return &o.Volume.ALExtents }),
	"rate":      number(func(o *Options) *uint32 { return &o.Volume.ResyncRate }),
	"flushes":   toggle(func(o *Options) *bool { return &o.Volume.DiskFlushes }),
	"on-error":  span8(func(o *Options) *core.OnIOError { return &o.Volume.DetachOnIO }),
	"protocol":  span8(func(o *Options) *protocol.ReplicationProtocol { return &o.Net.Protocol }),
	"version":   span8(func(o *Options) *protocol.Version { return &o.Net.MaxVersion }),
	"rle":       toggle(func(o *Options) *bool { return &o.Net.UseRLE }),
	"ko-count":  number(func(o *Options) *int { return &o.Net.KoCount }),
	"congested": span8(func(o *Options) *core.OnCongestion { return &o.Net.OnCongestion }),
	"fill":      number(func(o *Options) *uint64 { return &o.Net.CongestionFill }),
	"epoch":     number(func(o *Options) *int { return &o.Net.MaxEpochSize }),
	"window":    number(func(o *Options) *int { return &o.Net.MaxBuffers }),
	"integrity": text(func(o *Options) *string { return &o.Net.IntegrityAlg }),
	"verify":    text(func(o *Options) *string { return &o.Net.VerifyAlg }),
	"csums":     text(func(o *Options) *string { return &o.Net.CSumsAlg }),
	"thin":      number(func(o *Options) *uint32 { return &o.Volume.ThinBytes }),
	"cram":      text(func(o *Options) *string { return &o.Net.CRAMAlg }),
	"secret":    text(func(o *Options) *string { return &o.Net.Secret }),
	"sb-0pri":   span8(func(o *Options) *protocol.Policy { return &o.Net.AfterSB0 }),
	"sb-1pri":   span8(func(o *Options) *protocol.Policy { return &o.Net.AfterSB1 }),
	"external":  toggle(func(o *Options) *bool { return &o.External }),
	"buffers":   number(func(o *Options) *int { return &o.Buffers }),
	"reckless":  toggle(func(o *Options) *bool { return &o.Reckless }),
	"skip":      toggle(func(o *Options) *bool { return &o.Skip }),
	"family": {
		func(o *Options) string { return o.Family },
		func(o *Options, v string) error {
			if families[v] == nil {
				return fmt.Errorf("no such family")
			}
			o.Family = v
			return nil
		},
	},
	"delay":        lapse(func(o *Options) *time.Duration { return &o.Delay }),
	"disk-timeout": lapse(func(o *Options) *time.Duration { return &o.Volume.DiskTimeout }),
}

// String writes the script as text that ParseScript reads.
func (s Script) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d\n", s.Seed)
	names := make([]string, 0, len(settings))
	for name := range settings {
		names = append(names, name)
	}
	sort.Strings(names)
	zero := Options{}
	for _, name := range names {
		v := settings[name].get(&s.Options)
		if v != settings[name].get(&zero) {
			fmt.Fprintf(&b, "%s %s\n", name, v)
		}
	}
	for _, a := range s.Actions {
		fmt.Fprintf(&b, "+%v %s %d\n", a.Gap, a.Name, a.Arg)
	}
	return b.String()
}

// ParseScript reads a script.
func ParseScript(in string) (Script, error) {
	var s Script
	sc := bufio.NewScanner(strings.NewReader(in))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := s.parse(line); err != nil {
			return s, fmt.Errorf("line %d, %q: %w", n, line, err)
		}
	}
	return s, sc.Err()
}

func (s *Script) parse(line string) (err error) {
	f := strings.Fields(line)
	if rest, ok := strings.CutPrefix(f[0], "+"); ok {
		if len(f) != 3 {
			return fmt.Errorf("want +GAP ACTION NUMBER")
		}
		a := Action{Name: f[1]}
		if a.Gap, err = time.ParseDuration(rest); err != nil {
			return err
		}
		if actionNamed(allActions(), a.Name) == nil {
			return fmt.Errorf("no such action")
		}
		a.Arg, err = strconv.ParseUint(f[2], 10, 64)
		s.Actions = append(s.Actions, a)
		return err
	}
	if len(f) != 2 {
		return fmt.Errorf("want NAME VALUE")
	}
	if f[0] == "seed" {
		s.Seed, err = strconv.ParseUint(f[1], 10, 64)
		return err
	}
	set, ok := settings[f[0]]
	if !ok {
		return fmt.Errorf("no such option")
	}
	return set.set(&s.Options, f[1])
}

const planSteps = 120

// Plan makes the script of a seed.
func Plan(seed uint64) Script {
	rng := rand.New(rand.NewPCG(seed, 0x706c616e))
	s := Script{Seed: seed, Options: planOptions(seed)}
	s.Actions = drawActions(rng, func(a *action) int { return a.weightIn(s.Options.Reckless) })
	replaceSome(&s)
	return s
}

// drawActions draws the actions of a plan, by weight.
func drawActions(rng *rand.Rand, weight func(a *action) int) (list []Action) {
	total, actions := 0, allActions()
	for i := range actions {
		total += weight(&actions[i])
	}
	for range planSteps {
		a := Action{Gap: time.Duration(rng.Int64N(int64(20 * time.Millisecond))), Arg: rng.Uint64()}
		switch rng.IntN(50) {
		case 0:
			a.Gap = time.Duration(rng.Int64N(int64(30 * time.Second)))
		case 1, 2:
			a.Gap = time.Duration(rng.Int64N(int64(time.Second)))
		case 3, 4, 5, 6, 7, 8:
			a.Gap = 0
		}
		k := rng.IntN(total)
		for i := range actions {
			if k -= weight(&actions[i]); k < 0 {
				a.Name = actions[i].name
				break
			}
		}
		list = append(list, a)
	}
	return list
}

// replaceSome lets administrators do something rare instead of what they did: change
// options, change sizes, lose patience; each in one run of six.
func replaceSome(s *Script) {
	rare := func(stream uint64, most int, choose func(rng *rand.Rand) string) {
		rng := rand.New(rand.NewPCG(s.Seed, stream))
		if rng.IntN(6) > 0 {
			return
		}
		for range 2 + rng.IntN(most) {
			a := &s.Actions[rng.IntN(len(s.Actions))]
			a.Name = choose(rng)
		}
	}
	rare(0x6368616e, 8, func(rng *rand.Rand) string {
		if rng.IntN(3) == 0 {
			return "disk-options"
		}
		return "net-options"
	})
	rare(0x73697a65, 6, func(*rand.Rand) string { return "resize" })
	rare(0x70617469, 12, func(*rand.Rand) string { return "give-up" })
}

// planOptions chooses the options of a seed.
func planOptions(seed uint64) Options {
	o := Options{Volumes: 1, DiskBytes: 1 << 20, Delay: 2 * time.Millisecond, Skip: seed%2 == 0, Reckless: seed%4 == 1,
		Net:    core.NetOptions{Protocol: protocol.ProtocolC, Timeout: 6 * time.Second, KoCount: 7, UseRLE: seed%3 != 0},
		Volume: core.VolumeConfig{DiskFlushes: true, ALExtents: 67}}
	rng := rand.New(rand.NewPCG(seed, 0x6f707473))
	one := func(n int) bool { return rng.IntN(n) == 0 }
	if one(4) {
		o.Volumes = 2
	}
	if one(5) {
		o.Net.Protocol = protocol.ReplicationProtocol(1 + rng.IntN(2))
	}
	if o.Net.Protocol == protocol.ProtocolA && one(2) {
		o.Net.OnCongestion, o.Net.CongestionFill = core.CongestionPullAhead, 8<<rng.IntN(4)
		o.Volume.ResyncRate = 1024 // meets the next burst
	}
	if one(7) {
		o.Net.MaxVersion = protocol.Version(91 + rng.IntN(11)) // older ones cannot sort out a lost sync UUID
		o.Volumes = 1                                          // several need version 100
		// Below 100 the peer acknowledges by the protocol, and A and B promise
		// nothing while its disk is the only one.
		o.Net.Protocol = protocol.ProtocolC
		if o.Net.MaxVersion < 90 {
			o.Skip = false
		}
	}
	if one(5) { // more extents than the activity log holds
		o.DiskBytes, o.Skip = 320<<20, true
	}
	if one(4) {
		o.External = true
	}
	if one(6) {
		o.Volume.ResyncRate = 256 << rng.IntN(5)
	}
	if one(6) {
		o.Net.MaxEpochSize = 1 + rng.IntN(8)
	}
	if one(8) {
		o.Net.MaxBuffers = 16
	}
	if one(8) {
		o.Buffers = 1 + rng.IntN(3)
	}
	if one(10) {
		o.Net.IntegrityAlg = "crc32c"
	}
	if one(10) {
		o.Net.CRAMAlg, o.Net.Secret = "sha1", "sekrit"
	}
	if one(10) {
		o.Delay = 50 * time.Millisecond
	}
	if o.Reckless && one(2) {
		o.Net.AfterSB0 = protocol.Policy(rng.IntN(5))
	}
	if one(2) {
		o.Net.VerifyAlg = "crc32c"
	}
	if one(4) {
		o.Net.CSumsAlg = "xxhash64"
	}
	if one(4) {
		o.Volume.ThinBytes = 65536
	}
	return o
}

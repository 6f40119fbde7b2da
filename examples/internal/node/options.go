// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// Options are options by their names in drbd.conf, with values as a user writes them.
type Options map[string]string

// optionKind says what values an option takes.
type optionKind uint8

const (
	optNumber optionKind = iota + 1
	optBool
	optChoice
	optText
)

// option is one row of the tables of DRBD's options (spec: behaviour 10).
type option struct {
	kind     optionKind
	def      string
	min, max int64
	// unit is what a number without a suffix stands for, in the base unit of suffixes:
	// 1024 for KiB/s, 512 for sectors, 1 for what is only counted (then plain is true).
	unit    int64
	plain   bool
	choices []string
	inert   bool // accepted, and without effect here
}

func number(def string, lo, hi int64) option {
	return option{kind: optNumber, def: def, min: lo, max: hi, unit: 1, plain: true}
}

func sized(def string, lo, hi, unit int64) option {
	return option{kind: optNumber, def: def, min: lo, max: hi, unit: unit}
}

func yesNo(def string) option { return option{kind: optBool, def: def} }

func choice(def string, others ...string) option {
	return option{kind: optChoice, def: def, choices: append([]string{def}, others...)}
}

func text() option { return option{kind: optText, max: 64} }

func (o option) ignored() option { o.inert = true; return o }

// NetOptions are the options of connect and net-options.
var NetOptions = optionTable{
	"protocol":               choice("C", "A", "B"),
	"timeout":                number("60", 1, 600),
	"ping-timeout":           number("5", 1, 300),
	"ping-int":               number("10", 1, 120),
	"connect-int":            number("10", 1, 120),
	"ko-count":               number("7", 0, 200),
	"socket-check-timeout":   number("0", 0, 300),
	"max-buffers":            number("2048", 32, 131072),
	"max-epoch-size":         number("2048", 1, 20000),
	"unplug-watermark":       number("128", 1, 131072).ignored(),
	"sndbuf-size":            sized("0", 0, 10<<20, 1),
	"rcvbuf-size":            sized("0", 0, 10<<20, 1),
	"allow-two-primaries":    yesNo("no"),
	"cram-hmac-alg":          text(),
	"shared-secret":          text(),
	"data-integrity-alg":     text(),
	"verify-alg":             text(),
	"csums-alg":              text(),
	"csums-after-crash-only": yesNo("no"),
	"after-sb-0pri": choice("disconnect", "discard-younger-primary", "discard-older-primary", "discard-zero-changes",
		"discard-least-changes", "discard-local", "discard-remote"),
	"after-sb-1pri":      choice("disconnect", "consensus", "discard-secondary", "call-pri-lost-after-sb", "violently-as0p"),
	"after-sb-2pri":      choice("disconnect", "call-pri-lost-after-sb", "violently-as0p"),
	"always-asbp":        yesNo("no"),
	"rr-conflict":        choice("disconnect", "call-pri-lost", "violently"),
	"on-congestion":      choice("block", "pull-ahead", "disconnect"),
	"congestion-fill":    sized("0", 0, 20971520, 512),
	"congestion-extents": number("1237", 67, 65534),
	"tcp-cork":           yesNo("yes").ignored(),
	"use-rle":            yesNo("yes"),
}

// DiskOptions are the options of attach and disk-options. The defaults of the resync's
// speed are the SDK's, which is faster than DRBD: see replica.ResyncConfig.
var DiskOptions = optionTable{
	"size":           sized("0", 0, 1<<41, 512),
	"on-io-error":    choice("detach", "pass_on", "call-local-io-error"),
	"fencing":        choice("dont-care", "resource-only", "resource-and-stonith"),
	"disk-barrier":   yesNo("no").ignored(),
	"disk-flushes":   yesNo("yes"),
	"disk-drain":     yesNo("yes").ignored(),
	"md-flushes":     yesNo("yes").ignored(),
	"resync-rate":    sized("102400", 1, 8388608, 1024),
	"resync-after":   number("-1", -1, 1048575),
	"al-extents":     number("1237", 67, 65534),
	"al-updates":     yesNo("yes"),
	"c-plan-ahead":   number("20", 0, 300),
	"c-delay-target": number("10", 1, 100),
	"c-fill-target":  sized("2048", 0, 1048576, 512),
	"c-max-rate":     sized("102400", 250, 4194304, 1024),
	"c-min-rate":     sized("10240", 0, 4194304, 1024),
	"disk-timeout":   number("0", 0, 6000),
	"read-balancing": choice("prefer-local", "prefer-remote", "round-robin", "least-pending", "when-congested-remote",
		"32K-striping", "64K-striping", "128K-striping", "256K-striping", "512K-striping", "1M-striping"),
	"discard-zeroes-if-aligned": yesNo("yes"),
	"disable-write-same":        yesNo("no").ignored(),
	"rs-discard-granularity":    sized("0", 0, 1048576, 1),
	"max-bio-bvecs":             number("0", 0, 128).ignored(),
}

// ResourceOptions are the options of new-resource and resource-options.
var ResourceOptions = optionTable{
	"cpu-mask":              text().ignored(),
	"on-no-data-accessible": choice("io-error", "suspend-io"),
}

// optionTable has the options of one kind by name.
type optionTable map[string]option

// Names returns the options' names in order.
func (t optionTable) Names() []string { return slices.Sorted(maps.Keys(t)) }

// IsBool reports whether an option takes yes and no, so that its name alone means yes.
func (t optionTable) IsBool(name string) bool { return t[name].kind == optBool }

// Default returns an option's default value.
func (t optionTable) Default(name string) string { return t[name].def }

// Check returns the options in the form in which they are kept: numbers in the default
// unit, booleans as yes or no, and without those that are at their default.
func (t optionTable) Check(in Options) (Options, error) {
	out := Options{}
	for name, value := range in {
		o, known := t[name]
		if !known {
			return nil, usage("unknown option --%s", name)
		}
		norm, err := o.normal(name, value)
		if err != nil {
			return nil, err
		}
		if norm != o.def {
			out[name] = norm
		}
	}
	return out, nil
}

func (o option) normal(name, value string) (string, error) {
	switch o.kind {
	case optBool:
		switch value {
		case "", "yes", "true":
			return "yes", nil
		case "no", "false":
			return "no", nil
		}
		return "", usage("--%s: %q is neither yes nor no", name, value)
	case optChoice:
		if !slices.Contains(o.choices, value) {
			return "", usage("--%s: %q is none of %s", name, value, strings.Join(o.choices, ", "))
		}
		return value, nil
	case optText:
		if int64(len(value)) > o.max {
			return "", usage("--%s is longer than %d characters", name, o.max)
		}
		return value, nil
	}
	n, err := o.parse(value)
	if err != nil {
		return "", usage("--%s: %s", name, err)
	}
	if n < o.min || n > o.max {
		return "", usage("--%s: %s is out of range, want %d to %d", name, value, o.min, o.max)
	}
	return strconv.FormatInt(n, 10), nil
}

// parse reads a number with DRBD's suffixes s, K, M, G and T, in units of o.unit.
func (o option) parse(value string) (int64, error) {
	digits, factor := value, o.unit
	if value != "" {
		shift := map[byte]int64{'s': 512, 'k': 1 << 10, 'm': 1 << 20, 'g': 1 << 30, 't': 1 << 40}
		if f, ok := shift[value[len(value)-1]|0x20]; ok {
			digits, factor = value[:len(value)-1], f
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", value)
	}
	if n > (1<<62)/factor || n < -1 {
		return 0, fmt.Errorf("%q is too large or too small", value)
	}
	if n < 0 {
		return n, nil
	}
	return n * factor / o.unit, nil
}

// value returns an option's value, or its default.
func (t optionTable) value(o Options, name string) string {
	if v, ok := o[name]; ok {
		return v
	}
	return t[name].def
}

// number returns the value of an option that Check has accepted.
func (t optionTable) number(o Options, name string) int64 {
	n, _ := strconv.ParseInt(t.value(o, name), 10, 64)
	return n
}

func (t optionTable) yes(o Options, name string) bool { return t.value(o, name) == "yes" }

// deciseconds returns an option in tenths of a second as a duration.
func (t optionTable) deciseconds(o Options, name string) time.Duration {
	return time.Duration(t.number(o, name)) * 100 * time.Millisecond
}

// orNegative stands for "0 means off" where the SDK has 0 for the default.
func orNegative[T ~int | ~int64](n T) T {
	if n == 0 {
		return -1
	}
	return n
}

// applyDisk fills in what attach's options say.
func applyDisk(v *replica.VolumeConfig, o Options) {
	t := DiskOptions
	v.Size = t.number(o, "size") * metadata.SectorSize
	v.ALExtents = 0 // sized for the device, which is the SDK's default and not DRBD's
	if o["al-extents"] != "" {
		v.ALExtents = int(t.number(o, "al-extents"))
	}
	v.NoALUpdates = !t.yes(o, "al-updates")
	v.NoDiskFlushes = !t.yes(o, "disk-flushes") && !t.yes(o, "disk-barrier") // flushes stand for barriers
	v.NoDiscardZeroesIfAligned = !t.yes(o, "discard-zeroes-if-aligned")
	v.DiskTimeout = t.deciseconds(o, "disk-timeout")
	v.ReadBalancing, _ = replica.ParseReadBalancing(t.value(o, "read-balancing")) // Check knows the names
	for _, p := range []replica.Fencing{replica.DontCare, replica.ResourceOnly, replica.ResourceAndStonith} {
		if p.String() == t.value(o, "fencing") {
			v.Fencing = p
		}
	}
	for _, p := range []replica.OnIOError{replica.Detach, replica.PassOn, replica.CallLocalIOError} {
		if p.String() == t.value(o, "on-io-error") {
			v.OnIOError = p
		}
	}
	v.Resync = replica.ResyncConfig{
		Rate:        t.number(o, "resync-rate") << 10,
		PlanAhead:   orNegative(t.deciseconds(o, "c-plan-ahead")),
		DelayTarget: t.deciseconds(o, "c-delay-target"),
		FillTarget:  orNegative(t.number(o, "c-fill-target") * metadata.SectorSize),
		MaxRate:     t.number(o, "c-max-rate") << 10,
		MinRate:     orNegative(t.number(o, "c-min-rate") << 10),

		ThinGranularity: int(t.number(o, "rs-discard-granularity")),
	}
}

// applyNet fills in what connect's options say.
func applyNet(p *replica.PeerConfig, o Options) error {
	t := NetOptions
	p.Protocol = protocol.ReplicationProtocol(t.value(o, "protocol")[0] - 'A' + 1)
	p.Timeout = t.deciseconds(o, "timeout")
	p.PingTimeout = t.deciseconds(o, "ping-timeout")
	p.PingInterval = time.Duration(t.number(o, "ping-int")) * time.Second
	p.KoCount = int(orNegative(t.number(o, "ko-count")))
	p.MaxEpochSize = int(t.number(o, "max-epoch-size"))
	p.MaxBuffers = int(t.number(o, "max-buffers"))
	p.DisableRLE = !t.yes(o, "use-rle")
	p.IntegrityAlg = o["data-integrity-alg"]
	p.AllowTwoPrimaries = t.yes(o, "allow-two-primaries")
	p.VerifyAlg, p.CSumsAlg = o["verify-alg"], o["csums-alg"]
	p.CSumsAfterCrashOnly = t.yes(o, "csums-after-crash-only")
	p.CRAMAlg, p.Secret = o["cram-hmac-alg"], o["shared-secret"]
	p.AlwaysASBP = t.yes(o, "always-asbp")
	for name, to := range map[string]*protocol.Policy{
		"after-sb-0pri": &p.AfterSB0Pri, "after-sb-1pri": &p.AfterSB1Pri, "after-sb-2pri": &p.AfterSB2Pri,
	} {
		policy, err := protocol.ParsePolicy(t.value(o, name))
		if err != nil {
			return usage("--%s: %v", name, err)
		}
		*to = policy
	}
	for _, c := range []replica.OnCongestion{replica.Block, replica.PullAhead, replica.DisconnectCongested} {
		if c.String() == t.value(o, "on-congestion") {
			p.OnCongestion = c
		}
	}
	p.CongestionFill = t.number(o, "congestion-fill") * metadata.SectorSize
	p.CongestionExtents = int(t.number(o, "congestion-extents"))
	for r := metadata.RRDisconnect; r <= metadata.RRViolently; r++ {
		if r.String() == t.value(o, "rr-conflict") {
			p.RRConflict = r
		}
	}
	return nil
}

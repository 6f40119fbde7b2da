// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// valueKind is what an option's value can be.
type valueKind uint8

const (
	number valueKind = iota + 1
	toggle           // yes, no; or nothing for yes
	choice           // one of a few words
	text             // anything
	bare             // no value
)

// spec describes an option (spec: behaviour 10).
type spec struct {
	kind     valueKind
	unit     byte // of a number without one: 0 for none, 'k' KiB, 's' sectors
	min, max int64
	// def is the default as it may be written: what is set to it is no problem.
	def    string
	values []string // of a choice
	only9  bool
}

func num(def string, lo, hi int64) spec { return spec{kind: number, def: def, min: lo, max: hi} }
func kib(def string, lo, hi int64) spec {
	return spec{kind: number, unit: 'k', def: def, min: lo, max: hi}
}
func sec(def string, lo, hi int64) spec {
	return spec{kind: number, unit: 's', def: def, min: lo, max: hi}
}
func yesNo(def string) spec     { return spec{kind: toggle, def: def} }
func word1(def string) spec     { return spec{kind: text, def: def} }
func upTo64(def string) spec    { return spec{kind: text, def: def, max: 64} }
func one(values ...string) spec { return spec{kind: choice, def: values[0], values: values} }
func nine(s spec) spec          { s.only9 = true; return s }

// sectionSpecs has all options there are, by section, under today's names.
var sectionSpecs = map[string]map[string]spec{
	"global": {
		"minor-count": num("32", 1, 255), "dialog-refresh": num("1", 0, 600), "disable-ip-verification": {kind: bare},
		"usage-count": one("ask", "yes", "no"), "udev-always-use-vnr": {kind: bare},
		"cmd-timeout-short": num("5", 0, 900), "cmd-timeout-medium": num("121", 0, 900), "cmd-timeout-long": num("600", 0, 900),
	},
	"options": {
		"cpu-mask": word1("0"), "on-no-data-accessible": one("io-error", "suspend-io"),
		"quorum": nine(word1("off")), "quorum-minimum-redundancy": nine(word1("off")), "on-no-quorum": nine(one("suspend-io", "io-error")),
		"auto-promote": nine(yesNo("no")), "auto-promote-timeout": nine(num("20", 0, 600)),
		"on-suspended-primary-outdated": nine(one("disconnect", "force-secondary")),
		"peer-ack-window":               nine(sec("4096", 2048, 204800)), "peer-ack-delay": nine(num("100", 1, 10000)),
		"twopc-timeout": nine(num("300", 50, 600)), "twopc-retry-timeout": nine(num("1", 1, 50)),
	},
	"net": {
		"protocol": one("C", "A", "B"), "timeout": num("60", 1, 600), "ping-timeout": num("5", 1, 300), "ping-int": num("10", 1, 120),
		"connect-int": num("10", 1, 120), "ko-count": num("7", 0, 200), "socket-check-timeout": num("0", 0, 300),
		"max-buffers": num("2048", 32, 131072), "max-epoch-size": num("2048", 1, 20000), "unplug-watermark": num("128", 1, 131072),
		"sndbuf-size": num("0", 0, 10<<20), "rcvbuf-size": num("0", 0, 10<<20),
		"allow-two-primaries": yesNo("no"), "cram-hmac-alg": upTo64(""), "shared-secret": upTo64(""), "data-integrity-alg": upTo64(""),
		"verify-alg": upTo64(""), "csums-alg": upTo64(""), "csums-after-crash-only": yesNo("no"),
		"after-sb-0pri": word1("disconnect"), "after-sb-1pri": word1("disconnect"), "after-sb-2pri": word1("disconnect"),
		"always-asbp": yesNo("no"), "rr-conflict": one("disconnect", "violently", "call-pri-lost", "retry-connect", "auto-discard"),
		"on-congestion": one("block", "pull-ahead", "disconnect"), "congestion-fill": sec("0", 0, 20971520),
		"congestion-extents": num("1237", 67, 65534), "tcp-cork": yesNo("yes"), "use-rle": yesNo("yes"),
		"fencing":   one("dont-care", "resource-only", "resource-and-stonith"), // in disk with 8.4
		"transport": nine(word1("tcp")), "allow-remote-read": nine(yesNo("yes")), "_name": nine(word1("")),
		"tls": nine(yesNo("no")), "load-balance-paths": nine(yesNo("no")), "rdma-ctrl-rcvbuf-size": nine(num("0", 0, 10<<20)),
		"rdma-ctrl-sndbuf-size": nine(num("0", 0, 10<<20)),
	},
	"disk": {
		"size": sec("0", 0, 1<<41), "on-io-error": one("detach", "pass_on", "call-local-io-error", "panic"),
		"fencing": one("dont-care", "resource-only", "resource-and-stonith"), "disk-barrier": yesNo("no"), "disk-flushes": yesNo("yes"),
		"disk-drain": yesNo("yes"), "md-flushes": yesNo("yes"), "resync-rate": kib("250", 1, 8388608), "resync-after": word1("-1"),
		"al-extents": num("1237", 67, 65534), "al-updates": yesNo("yes"), "c-plan-ahead": num("20", 0, 300),
		"c-delay-target": num("10", 1, 100), "c-fill-target": sec("100", 0, 1048576), "c-max-rate": kib("102400", 250, 4194304),
		"c-min-rate": kib("250", 0, 4194304), "disk-timeout": num("0", 0, 6000),
		"read-balancing": one("prefer-local", "prefer-remote", "round-robin", "least-pending", "when-congested-remote",
			"32K-striping", "64K-striping", "128K-striping", "256K-striping", "512K-striping", "1M-striping"),
		"discard-zeroes-if-aligned": yesNo("yes"), "disable-write-same": yesNo("no"), "rs-discard-granularity": num("0", 0, 1048576),
		"max-bio-bvecs": num("0", 0, 128), "use-bmbv": yesNo("no"),
		"discard-granularity": nine(num("0", 0, 134217728)), "bitmap": nine(yesNo("yes")), "peer-tiebreaker": nine(yesNo("yes")),
	},
	"startup": {
		"wfc-timeout": num("0", 0, 300000), "degr-wfc-timeout": num("0", 0, 300000), "outdated-wfc-timeout": num("0", 0, 300000),
		"wait-after-sb": yesNo("no"), "become-primary-on": word1(""), "stacked-timeouts": yesNo("no"),
	},
	"handlers": {
		"pri-on-incon-degr": word1(""), "pri-lost-after-sb": word1(""), "pri-lost": word1(""), "fence-peer": word1(""),
		"unfence-peer": word1(""), "local-io-error": word1(""), "initial-split-brain": word1(""), "split-brain": word1(""),
		"before-resync-target": word1(""), "after-resync-target": word1(""), "out-of-sync": word1(""),
		"before-resync-source": word1(""), "quorum-lost": word1(""), "disconnected": nine(word1("")),
		"suspended-primary-outdated": nine(word1("")),
	},
	"proxy": {
		"memlimit": word1(""), "read-loops": word1(""), "compression": word1(""), "bwlimit": word1(""),
	},
}

// place is a section and the name of an option in it.
type place struct{ section, name string }

// oldPlaces are the places of options that were elsewhere in 8.3: the old one, today's.
var oldPlaces = map[place]place{
	{"syncer", "rate"}: {"disk", "resync-rate"}, {"syncer", "after"}: {"disk", "resync-after"},
	{"syncer", "al-extents"}: {"disk", "al-extents"}, {"syncer", "c-plan-ahead"}: {"disk", "c-plan-ahead"},
	{"syncer", "c-delay-target"}: {"disk", "c-delay-target"}, {"syncer", "c-fill-target"}: {"disk", "c-fill-target"},
	{"syncer", "c-max-rate"}: {"disk", "c-max-rate"}, {"syncer", "c-min-rate"}: {"disk", "c-min-rate"},
	{"syncer", "verify-alg"}: {"net", "verify-alg"}, {"syncer", "csums-alg"}: {"net", "csums-alg"},
	{"syncer", "use-rle"}: {"net", "use-rle"}, {"syncer", "cpu-mask"}: {"options", "cpu-mask"},
	{"syncer", "on-no-data-accessible"}: {"options", "on-no-data-accessible"},
	{"handlers", "outdate-peer"}:        {"handlers", "fence-peer"},
}

// negations are the switches that 8.3 had as "no-...": their values are "no".
var negations = map[place]string{
	{"disk", "no-disk-barrier"}: "disk-barrier", {"disk", "no-disk-flushes"}: "disk-flushes",
	{"disk", "no-disk-drain"}: "disk-drain", {"disk", "no-md-flushes"}: "md-flushes", {"net", "no-tcp-cork"}: "tcp-cork",
}

// legacy are the options that died with 0.7, and what is to be said about them.
var legacy = map[place]string{
	{"syncer", "group"}:            "no version since 8.0 has it; resyncs that are to wait for each other are put in order with resync-after",
	{"syncer", "skip-sync"}:        "no version since 8.0 has it; a disk that is identical already is declared so when its metadata is made",
	{"net", "on-disconnect"}:       "no version since 8.0 has it; a lost connection is looked for again (reconnect), and I/O goes on",
	{"disk", "do-panic"}:           "no version since 0.7 has it; use on-io-error call-local-io-error with a handler that stops the machine",
	{"resource", "incon-degr-cmd"}: "8.0 and later call this the handler pri-on-incon-degr",
}

// option turns a statement of a section into an Option, and says under which section
// it belongs.
func option(section string, st *statement) (string, Option, error) {
	name := st.words[0].text
	o := Option{Pos: st.pos(), Name: name, Written: section + " " + name}
	at := place{section, name}
	args := st.args()
	if _, ok := legacy[at]; ok {
		for i, a := range args {
			if i > 0 {
				o.Value += " "
			}
			o.Value += a.text
		}
		return "legacy", o, nil
	}
	value := ""
	if positive, ok := negations[at]; ok {
		if len(args) > 0 {
			return "", o, errorAt(args[0].pos, ErrInvalid, "%s has no value", name)
		}
		o.Name, value = positive, "no"
	} else if now, ok := oldPlaces[at]; ok {
		section, o.Name = now.section, now.name
	}
	sp, ok := sectionSpecs[section][o.Name]
	if !ok || st.hasBlock {
		return "", o, errorAt(o.Pos, ErrInvalid, "there is no option %s in a section %s", name, strings.Fields(o.Written)[0])
	}
	if value != "" {
		o.Value = value
		return section, o, nil
	}
	var err error
	o.Value, err = sp.value(o.Name, o.Pos, args)
	return section, o, err
}

// value checks the value of an option.
func (sp spec) value(name string, pos Pos, args []word) (string, error) {
	switch {
	case sp.kind == bare && len(args) == 0:
		return "", nil
	case sp.kind == bare:
		return "", errorAt(args[0].pos, ErrInvalid, "%s has no value", name)
	case sp.kind == toggle && len(args) == 0:
		return "yes", nil
	case len(args) == 0:
		return "", errorAt(pos, ErrInvalid, "%s needs a value", name)
	case len(args) > 1 && name == "become-primary-on":
		return joinWords(args), nil
	case len(args) > 1:
		return "", errorAt(args[1].pos, ErrInvalid, "%s has one value; one with spaces stands in double quotes", name)
	}
	v := args[0]
	if !v.quoted && !isPlain(v.text) {
		return "", errorAt(v.pos, ErrSyntax, "the value %s must stand in double quotes", v.text)
	}
	switch sp.kind {
	case toggle:
		if v.text != "yes" && v.text != "no" {
			return "", errorAt(v.pos, ErrInvalid, "%s is yes or no, not %q", name, v.text)
		}
	case choice:
		if !slices.Contains(sp.values, v.text) {
			return "", errorAt(v.pos, ErrInvalid, "%s is one of %s, not %q", name, strings.Join(sp.values, ", "), v.text)
		}
	case text:
		if sp.max > 0 && int64(len(v.text)) > sp.max {
			return "", errorAt(v.pos, ErrInvalid, "%s is %d characters long, want at most %d", name, len(v.text), sp.max)
		}
	case number:
		if _, err := sp.number(v.text); err != nil {
			return "", errorAt(v.pos, ErrInvalid, "%s: %v", name, err)
		}
	}
	return v.text, nil
}

// number returns a number in the option's unit: plain, KiB or sectors.
func (sp spec) number(s string) (int64, error) {
	n, err := parseNumber(s, sp.unit)
	if err != nil {
		return 0, err
	}
	if n < sp.min || n > sp.max {
		return 0, fmt.Errorf("%s is out of range, want %d to %d%s", s, sp.min, sp.max, unitName(sp.unit))
	}
	return n, nil
}

func unitName(unit byte) string {
	switch unit {
	case 'k':
		return " KiB"
	case 's':
		return " sectors"
	}
	return ""
}

// multiplier returns what a suffix stands for, 0 for none that there is.
func multiplier(suffix byte) uint64 {
	switch suffix {
	case 0:
		return 1
	case 's', 'S':
		return 512
	}
	if i := strings.IndexByte("kmgtp", suffix|0x20); i >= 0 {
		return 1 << (10 * (i + 1))
	}
	return 0
}

// parseNumber reads digits and maybe a suffix: s for sectors, or K, M, G, T, P. A
// number without one counts in unit; the result does, rounded down.
func parseNumber(s string, unit byte) (int64, error) {
	digits := strings.TrimRight(s, "sSkKmMgGtTpP")
	if digits == "" || len(s)-len(digits) > 1 {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	var n uint64
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' || n > (1<<60) {
			return 0, fmt.Errorf("%q is not a number, or too large", s)
		}
		n = n*10 + uint64(c-'0')
	}
	if len(digits) < len(s) {
		m := multiplier(s[len(s)-1])
		if n > math.MaxInt64/m {
			return 0, fmt.Errorf("%s is too large", s)
		}
		n = n * m / multiplier(unit)
	}
	if n > math.MaxInt64 {
		return 0, fmt.Errorf("%s is too large", s)
	}
	return int64(n), nil
}

// isPlain reports whether a value needs no quotes.
func isPlain(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("/-_.", rune(c)) {
			return false
		}
	}
	return s != ""
}

func joinWords(list []word) string {
	var b strings.Builder
	for i, w := range list {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(w.text)
	}
	return b.String()
}

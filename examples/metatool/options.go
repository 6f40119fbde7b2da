// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"path"
	"strconv"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
)

// options are the --name value pairs and the other arguments behind the command.
type options struct {
	named map[string]string
	rest  []string
}

// optionTakesValue lists the options behind the command.
var optionTakesValue = map[string]bool{
	"node-id":              true,
	"al-stripes":           true,
	"al-stripe-size-kB":    true,
	"peer-max-bio-size":    true,
	"bitmap-block-size":    true,
	"effective-size":       true,
	"diskful-peers":        true,
	"initial-current-uuid": true,
	"consistent":           false,
	"uptodate":             false,
	"peers-outdated":       false,
	"ignore-sanity-checks": false,
	"last-size":            true,
	"out-of-sync":          false,
}

// parse reads the command line up to the command's own arguments, which it splits
// into options and the rest, and returns the command.
func (t *tool) parse(args []string) (command string, err error) {
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		switch {
		case args[0] == "--force":
			t.force = true
		case args[0] == "--state-dir" && len(args) > 1:
			t.stateDir = args[1]
			args = args[1:]
		default:
			return "", failf(exitUsage, "Unknown option '%s'.", args[0])
		}
		args = args[1:]
	}
	if len(args) < 4 {
		return "", failf(exitUsage, "Too few arguments for format")
	}
	if t.minor, err = parseMinor(args[0]); err != nil {
		return "", err
	}
	if t.version, err = metadata.ParseVersion(args[1]); err != nil {
		return "", failf(exitUsage, "Unknown format '%s'.", args[1])
	}
	t.path = args[2]
	if t.loc, err = metadata.ParseLocation(args[3], t.version); err != nil {
		return "", failf(exitUsage, "'%s' is not a valid index number.", args[3])
	}
	if len(args) < 5 {
		return "", failf(exitUsage, "command missing")
	}
	return args[4], t.opts.parse(args[5:])
}

// parseMinor reads a minor number, /dev/drbdN, or "-" for none (-1).
func parseMinor(s string) (int, error) {
	if s == "-" {
		return -1, nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(path.Base(s), "drbd"), 10, 20)
	if err != nil {
		return 0, failf(exitUsage, "'%s' is not a minor number, /dev/drbdN or -.", s)
	}
	return int(n), nil
}

func (o *options) parse(args []string) error {
	o.named = map[string]string{}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, isOption := strings.CutPrefix(arg, "--")
		if !isOption {
			o.rest = append(o.rest, arg)
			continue
		}
		name, value, given := strings.Cut(name, "=")
		takes, known := optionTakesValue[name]
		if !known || (given && !takes) {
			return failf(exitUsage, "Unknown option '%s'.", arg)
		}
		if takes && !given {
			if len(args) == 0 {
				return failf(exitUsage, "Option '%s' needs a value.", arg)
			}
			value, args = args[0], args[1:]
		}
		o.named[name] = value
	}
	return nil
}

func (o *options) has(name string) bool { _, ok := o.named[name]; return ok }

// argument returns the only argument that is no option.
func (t *tool) argument() (string, error) {
	if len(t.opts.rest) == 0 {
		return "", failf(exitInvalid, "Required Argument missing")
	}
	t.ignoreArguments(1)
	return t.opts.rest[0], nil
}

// ignoreArguments says that arguments from the n-th on have no meaning.
func (t *tool) ignoreArguments(n int) {
	if len(t.opts.rest) > n {
		t.complain("Ignoring additional arguments")
	}
}

// number returns the value of an option in a range, or absent. Letters behind the
// number multiply it by powers of 1024, "s" by the size of a sector.
func (o *options) number(name string, low, high, absent uint64) (uint64, error) {
	s, ok := o.named[name]
	if !ok {
		return absent, nil
	}
	digits, unit := s, uint64(1)
	if i := len(s) - 1; i > 0 {
		if p := strings.IndexByte("sKMGTP", s[i]); p == 0 {
			digits, unit = s[:i], metadata.SectorSize
		} else if p > 0 {
			digits, unit = s[:i], 1<<(10*p)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxUint64/unit || n*unit < low || n*unit > high {
		return 0, failf(exitInvalid, "%s %s is not a number in %d...%d", name, s, low, high)
	}
	return n * unit, nil
}

// nodeID returns the peer's node id, which v09 needs and v07 and v08 do not have.
func (t *tool) nodeID(command string) (int, error) {
	if t.version != metadata.V09 {
		if id, ok := t.opts.named["node-id"]; ok && id != "0" {
			t.complain("Not v09, implicitly set --node-id = 0")
		}
		return 0, nil
	}
	if !t.opts.has("node-id") {
		return 0, failf(exitInvalid, "The %s command requires the --node-id option", command)
	}
	n, err := t.opts.number("node-id", 0, metadata.PeerRecords-1, 0)
	if err != nil {
		return 0, failf(exitInvalid, "node-id out of range (0...%d)", metadata.PeerRecords-1)
	}
	return int(n), nil
}

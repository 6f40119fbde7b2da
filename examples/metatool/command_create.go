// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
)

// createMD writes fresh metadata. What is there already is overwritten, if of the
// same version, or else converted, if the user agrees.
func (t *tool) createMD() error {
	opt, err := t.createOptions()
	if err != nil {
		return err
	}
	dev, err := t.open()
	if err != nil {
		return err
	}
	defer dev.Close()
	l, err := metadata.NewLayout(t.version, t.loc, dev.size, opt.Geometry)
	if err != nil {
		return err
	}
	old, exists := t.existing(dev)
	if exists {
		converted, err := t.replaceExisting(old, l, opt)
		if converted || err != nil {
			return err
		}
	}
	if err := t.checkContent(dev, l); err != nil {
		return err
	}
	t.say("initializing activity log")
	t.say("Writing meta data...")
	sb, err := metadata.Create(dev, t.version, t.loc, dev.size, opt)
	if err != nil {
		return err
	}
	if exists && old.layout.SuperblockOffset != l.SuperblockOffset {
		// v07's other place: nobody should find it again.
		if err := metadata.Wipe(dev, old.layout); err != nil {
			return err
		}
	}
	t.remember(dev.size, sb.DeviceUUID)
	t.say("New drbd meta data block successfully created.")
	return nil
}

// existing looks for metadata of any version where it could be.
func (t *tool) existing(dev *device) (found, bool) {
	locs := []metadata.Location{t.loc}
	if t.loc.IsInternal() {
		locs = []metadata.Location{metadata.InternalFixed(), metadata.Internal()}
	}
	var best found
	for _, loc := range locs {
		sb, l, err := metadata.Read(dev, loc, dev.size)
		if err == nil && sb.Version >= best.sb.Version {
			best = found{dev, sb, l}
		}
	}
	return best, best.dev != nil
}

// replaceExisting asks what to do with the metadata that is there. It returns
// whether it was converted; no error means that it may be overwritten otherwise.
func (t *tool) replaceExisting(old found, l metadata.Layout, opt metadata.CreateOptions) (converted bool, err error) {
	if t.loc.IsInternal() {
		t.complain("You want me to create a %s style %s meta data block.", t.version, describe(t.loc))
		t.complain("There appears to be a %s %s meta data block", old.sb.Version, describe(old.layout.Location))
		t.complain("already in place on %s at byte offset %d", t.path, old.layout.SuperblockOffset)
	}
	if old.sb.Version != t.version {
		if t.confirm("Valid " + old.sb.Version.String() + " meta-data found, convert to " + t.version.String() + "?") {
			return true, t.convert(old, opt)
		}
		if !t.confirm("So you want me to replace the " + old.sb.Version.String() + " meta-data\nwith newly initialized " +
			t.version.String() + " meta-data?") {
			return false, t.errDeclined()
		}
		return false, nil
	}
	g, now := l.Geometry, old.layout.Geometry
	if t.loc.IsInternal() && (g.ALStripes != now.ALStripes || g.ALStripeSize4k != now.ALStripeSize4k) {
		if t.confirm("Do you want to change the activity log stripe settings *only*?") {
			return false, failf(exitUnimplemented, "Not done in place: dump-md > FILE, then restore-md --al-stripes ... FILE")
		}
	}
	if !t.confirm("Do you really want to overwrite the existing meta-data?") {
		return false, t.errDeclined()
	}
	return false, nil
}

func describe(loc metadata.Location) string {
	switch {
	case loc == metadata.InternalFixed():
		return "fixed-size internal"
	case loc.IsInternal():
		return "flexible-size internal"
	case loc == metadata.FlexExternal():
		return "flexible-size external"
	}
	return "fixed-size external"
}

func (t *tool) convert(old found, opt metadata.CreateOptions) error {
	if n := opt.Geometry.MaxPeers; t.version == metadata.V09 && n != 1 {
		t.say("Warning: setting max_peers to 1 instead of %d\n", n)
	}
	t.say("Converting meta data...")
	t.say("Writing meta data...")
	sb, _, err := metadata.ConvertDevice(old.dev, t.version, old.layout.Location, t.loc, old.dev.size)
	if err != nil {
		return err
	}
	t.remember(old.dev.size, sb.DeviceUUID)
	t.say("New drbd meta data block successfully created.")
	return nil
}

// checkContent asks or refuses if the device holds something else.
func (t *tool) checkContent(dev *device, l metadata.Layout) error {
	content, err := metadata.DetectContent(dev)
	if err != nil {
		return err
	}
	verdict := content.Verdict(l)
	if verdict == metadata.ContentHarmless {
		return nil
	}
	t.say("md_offset %d\nal_offset %d\nbm_offset %d\n", l.SuperblockOffset, l.ActivityLogOffset, l.BitmapOffset)
	t.say("Found %s", content.Name)
	if content.Kind == metadata.ContentKnown && t.loc.IsInternal() {
		if content.Bytes != 0 {
			t.say("%12d kB data area apparently used", content.Bytes/1024)
		}
		t.say("%12d kB left usable by current configuration", l.UsableSectors/2)
	}
	switch {
	case verdict == metadata.ContentRefuse && t.opts.has("ignore-sanity-checks"):
		t.say("\nThis would corrupt existing data.\n\nIgnoring sanity check on user request.\n")
		return nil
	case verdict == metadata.ContentRefuse:
		t.say("\nThis would corrupt existing data. You need to either\n" +
			"   * use external meta data (recommended)\n" +
			"   * shrink what is there first\n" +
			"   * zero out the beginning of the device (destroy the content)\n" +
			"Operation refused.\n")
		return failf(exitRefused, "")
	case content.Kind == metadata.ContentKnown:
		t.say("\nEven though it looks like this would place the new meta data into\n" +
			"unused space, you still need to confirm, as this is only a guess.")
	default:
		t.say("\n ==> This might destroy existing data! <==")
	}
	if !t.confirm("Do you want to proceed?") {
		return t.errDeclined()
	}
	return nil
}

// stripes returns the options for the activity log, 0 where not given.
func (t *tool) stripes() (stripes, size4k uint32, err error) {
	n, err := t.opts.number("al-stripes", 1, math.MaxUint32, 0)
	if err != nil {
		return 0, 0, err
	}
	kB, err := t.opts.number("al-stripe-size-kB", 4, math.MaxUint32, 0)
	return uint32(n), uint32(kB / 4), err
}

func (t *tool) createOptions() (opt metadata.CreateOptions, err error) {
	if opt.Geometry.ALStripes, opt.Geometry.ALStripeSize4k, err = t.stripes(); err != nil {
		return opt, err
	}
	if opt.Geometry.MaxPeers, err = t.maxPeers(); err != nil {
		return opt, err
	}
	bits, err := t.opts.number("bitmap-block-size", 4096, 1<<20, 0)
	opt.Geometry.BytesPerBit = uint32(bits)
	if err != nil {
		return opt, err
	}
	bio, err := t.opts.number("peer-max-bio-size", 0, 1<<20, 0)
	opt.PeerMaxBioSize = uint32(bio)
	if err != nil {
		return opt, err
	}
	size, err := t.opts.number("effective-size", 0, 1<<62, 0)
	opt.EffectiveSize = size / metadata.SectorSize
	if err != nil {
		return opt, err
	}
	if opt.DiskfulPeers, err = t.diskfulPeers(); err != nil {
		return opt, err
	}
	for name, flags := range map[string]metadata.Flags{
		"consistent":     metadata.Consistent,
		"uptodate":       metadata.Consistent | metadata.WasUpToDate,
		"peers-outdated": metadata.PeerOutdated,
	} {
		if t.opts.has(name) {
			opt.Flags |= flags
		}
	}
	if opt.Flags&metadata.PeerOutdated != 0 && t.version != metadata.V08 {
		return opt, failf(exitUsage, "--peers-outdated is for v08 only")
	}
	opt.Current, err = t.initialUUID()
	return opt, err
}

// maxPeers is the argument of create-md, which v09 requires.
func (t *tool) maxPeers() (uint32, error) {
	if t.version != metadata.V09 {
		t.ignoreArguments(0)
		return 1, nil
	}
	if len(t.opts.rest) == 0 {
		return 0, failf(exitUsage, "USAGE: metatool MINOR v09 ... create-md MAX_PEERS\n\n  MAX_PEERS argument missing")
	}
	t.ignoreArguments(1)
	n, err := strconv.ParseUint(t.opts.rest[0], 10, 32)
	if err != nil {
		return 0, failf(exitUsage, "%s is not a valid number", t.opts.rest[0])
	}
	if n < 1 || n > metadata.MaxPeers {
		return 0, failf(exitUsage, "MAX_PEERS argument not in allowed range 1 .. %d.", metadata.MaxPeers)
	}
	return uint32(n), nil
}

// diskfulPeers reads a list of node ids: "0,2,5".
func (t *tool) diskfulPeers() (mask uint32, err error) {
	list := t.opts.named["diskful-peers"]
	if list == "" {
		return 0, nil
	}
	for id := range strings.SplitSeq(list, ",") {
		n, err := strconv.ParseUint(id, 10, 8)
		if err != nil || n >= metadata.PeerRecords {
			return 0, failf(exitInvalid, "node-id out of range (0...%d)", metadata.PeerRecords-1)
		}
		mask |= 1 << n
	}
	return mask, nil
}

func (t *tool) initialUUID() (metadata.UUID, error) {
	s := t.opts.named["initial-current-uuid"]
	switch s {
	case "":
		return 0, nil
	case "generate":
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return 0, err
		}
		u := metadata.UUID(binary.NativeEndian.Uint64(b[:])).Identity()
		if u <= metadata.UUIDJustCreated {
			return 0, errors.New("the random source gave a reserved identifier: try again")
		}
		return u, nil
	}
	v, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 64)
	if err != nil {
		return 0, failf(exitInvalid, "'%s' is not a number of up to 16 hexadecimal digits.", s)
	}
	return metadata.UUID(v).Identity(), nil
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

// The legends of show-gi (spec: on-disk 8). They are part of the tool's output.
const (
	legendUUIDs = `
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V
`
	legendV08 = `
                                                                    ^ ^ ^ ^ ^ ^ ^
                                      -<  Data consistency flag  >--+ | | | | | |
                             -<  Data was/is currently up-to-date  >--+ | | | | |
                                  -<  Node was/is currently primary  >--+ | | | |
                                  -<  Node was/is currently connected  >--+ | | |
         -<  Node was in the progress of setting all bits in the bitmap  >--+ | |
                        -<  The peer's disk was out-dated or inconsistent  >--+ |
      -<  This node was a crashed primary, and has not seen its peer since   >--+

`
	legendV09 = `
                                                                    ^ ^ ^ ^ ^ ^ ^ ^ ^ ^ ^ ^
                                      -<  Data consistency flag  >--+ | | | | | | | | | | |
                             -<  Data was/is currently up-to-date  >--+ | | | | | | | | | |
                                  -<  Node was/is currently primary  >--+ | | | | | | | | |
 -<  This node was a crashed primary, and has not seen its peer since  >--+ | | | | | | | |
             -<  The activity-log was applied, the disk can be attached  >--+ | | | | | | |
        -<  The activity-log was disabled, peer is completely out of sync  >--+ | | | | | |
                              -<  This node was primary when it lost quorum  >--+ | | | | |
                                          -<  Node was/is currently connected  >--+ | | | |
                              -<  The peer's disk was out-dated or inconsistent  >--+ | | |
                                 -<   A fence policy other the dont-care was used  >--+ | |
                  -<  Node was in the progress of marking all blocks as out of sync  >--+ |
                     -<  At least once we saw this node with a backing device attached >--+

`
	legendV07 = `
                                        WantFullSync |
                                  ConnectedInd |     |
                               lastState |     |     |
                      ArbitraryCnt |     |     |     |
                ConnectedCnt |     |     |     |     |
            TimeoutCnt |     |     |     |     |     |
        HumanCnt |     |     |     |     |     |     |
Consistent |     |     |     |     |     |     |     |
   --------+-----+-----+-----+-----+-----+-----+-----+
`
)

// ShowGI returns the generation identifiers and flags with their legend, as
// show-gi prints them (spec: on-disk 8). node and errors are those of
// [Superblock.GI].
func (sb *Superblock) ShowGI(node int) (string, error) {
	line, err := sb.GI(node)
	if err != nil {
		return "", err
	}
	var t appender
	switch sb.Version {
	case V07:
		t.text(legendV07).tableV07(sb)
	case V08:
		t.text(legendUUIDs).text(line).text(legendV08).stateV08(sb)
	case V09:
		t.text(legendUUIDs).text(line).text(legendV09)
	}
	if sb.EffectiveSize == 0 {
		t.text("zero size device -- never seen peer yet?\n")
		return string(t), nil
	}
	t.text("last agreed size: ").text(FormatSize(sb.EffectiveSize / 2)).text(" (").unum(sb.EffectiveSize).text(" sectors)\n")
	t.text("last agreed max bio size: ").num(int64(sb.PeerMaxBioSize)).text(" Byte\n")
	return string(t), nil
}

func (t *appender) tableV07(sb *Superblock) {
	flag := func(f Flags, set, clear string) string {
		if sb.Flags&f != 0 {
			return "1/" + set
		}
		return "0/" + clear
	}
	t.text("       ").text(flag(Consistent, "c", "i"))
	for _, n := range []uint32{sb.Counters.Human, sb.Counters.Timeout, sb.Counters.Connected, sb.Counters.Arbitrary} {
		var digits appender
		digits.num(int64(int32(n)))
		t.text(" | ")
		for i := len(digits); i < 3; i++ {
			t.text(" ")
		}
		t.text(string(digits))
	}
	t.text(" | ").text(flag(PrimaryInd, "p", "s"))
	t.text(" | ").text(flag(ConnectedInd, "c", "n"))
	t.text(" | ").text(flag(FullSync, "y", "n")).text("  \n\n")
}

func (t *appender) stateV08(sb *Superblock) {
	pick := func(f Flags, set, clear string) string {
		if sb.Flags&f != 0 {
			return set
		}
		return clear
	}
	t.text("flags: ").text(pick(CrashedPrimary, "crashed ", "")).text(pick(PrimaryInd, "Primary", "Secondary"))
	t.text(", ").text(pick(ConnectedInd, "Connected", "StandAlone"))
	if sb.Flags&Consistent == 0 {
		t.text(", Inconsistent")
	} else {
		t.text(pick(WasUpToDate, ", UpToDate", ", Outdated"))
	}
	t.text(pick(FullSync, ", need full sync", "")).text(pick(PeerOutdated, ", peer Outdated", ""))
	t.text("\nmeta-data: ")
	if sb.NeedsApplyAL() {
		t.text("need apply-al\n")
	} else {
		t.text("clean\n")
	}
}

// FormatSize writes a size in KiB as the tool does: rounded to at most four digits
// of KB, MB, GB and so on, which are powers of 1024.
func FormatSize(kib uint64) string {
	unit := 0
	for kib >= 10000 {
		kib = kib>>10 + kib>>9&1
		unit++
	}
	var t appender
	t.unum(kib).text(" ").text([...]string{"KB", "MB", "GB", "TB", "PB", "EB", "ZB"}[unit])
	return string(t)
}

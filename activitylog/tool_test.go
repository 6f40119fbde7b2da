// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/activitylog"
	"github.com/go-blockmirror/blockmirror/bitmap"
)

// toolDevice is a metadata device in a file on which the real drbdmeta works.
type toolDevice struct {
	tool string
	path string
	g    activitylog.Geometry
}

const (
	toolExtents = 512 // extents of the volume: 2 GiB
	toolSectors = toolExtents * activitylog.ExtentSectors
)

// newToolDevice makes a flexible external metadata device with drbdmeta. Without the
// tool the test is skipped, but fails in CI.
func newToolDevice(t *testing.T, g activitylog.Geometry) *toolDevice {
	t.Helper()
	tool := findTool()
	if tool == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("drbdmeta is not installed (package drbd-utils)")
		}
		t.Skip("drbdmeta is not installed (package drbd-utils)")
	}
	d := &toolDevice{tool: tool, path: filepath.Join(t.TempDir(), "meta"), g: g}
	require.NoError(t, os.WriteFile(d.path, nil, 0o600))
	require.NoError(t, os.Truncate(d.path, 256<<10))
	out, code := d.run(t, "create-md", "--al-stripes", strconv.Itoa(int(g.Stripes)), "--al-stripe-size-kB", strconv.Itoa(int(g.StripeSize4k)*4))
	require.Zero(t, code, out)
	return d
}

// findTool looks also where an ordinary user's PATH does not.
func findTool() string {
	for _, name := range []string{"drbdmeta", "/usr/sbin/drbdmeta", "/sbin/drbdmeta"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

func (d *toolDevice) run(t *testing.T, args ...string) (string, int) {
	t.Helper()
	out, err := exec.Command(d.tool, append([]string{"--force", "-", "v08", d.path, "flex-external"}, args...)...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

// apply puts a ring on the device as a crashed Primary would leave it, lets the tool
// apply it, and returns the extents that are out of sync then.
func (d *toolDevice) apply(t *testing.T, magic uint32, ring []byte, slots int) (hot []extent, output string, code int) {
	t.Helper()
	raw, err := os.ReadFile(d.path)
	require.NoError(t, err)
	binary.BigEndian.PutUint64(raw[0:], toolSectors)
	binary.BigEndian.PutUint32(raw[56:], 0x13) // Consistent, PrimaryInd, WasUpToDate
	binary.BigEndian.PutUint32(raw[60:], magic)
	binary.BigEndian.PutUint32(raw[72:], uint32(slots))
	copy(raw[4096:], ring)
	area := raw[4096+d.g.Bytes():]
	clear(area)
	require.NoError(t, os.WriteFile(d.path, raw, 0o600))

	output, code = d.run(t, "apply-al")
	raw, err = os.ReadFile(d.path)
	require.NoError(t, err)
	m := bitmap.New(bitmap.BitsFor(toolSectors))
	require.NoError(t, m.Load(bytes.NewReader(raw), 4096+d.g.Bytes(), 0, 1))
	for e := range extent(toolExtents) {
		first := uint64(e) * 1024
		switch m.CountRange(first, first+1024) {
		case 1024:
			hot = append(hot, e)
		case 0:
		default:
			t.Fatalf("extent %d is marked in part", e)
		}
	}
	return hot, output, code
}

// The real tool finds in our rings what Replay finds, whatever became of the last
// block, also across the wrap of the counter.
func TestToolReadsOurLog(t *testing.T) {
	for i, g := range []activitylog.Geometry{{Stripes: 1, StripeSize4k: 8}, {Stripes: 2, StripeSize4k: 16}, {Stripes: 3, StripeSize4k: 3}} {
		for _, start := range []uint32{0, 1<<32 - 20} {
			t.Run(fmt.Sprintf("%dx%d from %d", g.Stripes, g.StripeSize4k, start), func(t *testing.T) {
				d := newToolDevice(t, g)
				rnd := rand.New(rand.NewPCG(uint64(i), uint64(start)))
				w := newWorld(67, g)
				if start > 0 {
					w.l.Continue(start - g.Blocks())
					for range g.Blocks() {
						w.prepare(true)
						w.commit()
					}
				}
				for k := range 40 {
					for range 5 {
						e := extent(rnd.Uint32N(toolExtents - 1))
						w.hold(e, e+extent(rnd.Uint32N(2)))
					}
					for len(w.held) > 40 {
						w.release(rnd.IntN(len(w.held)))
					}
					if _, ok := w.prepare(false); !ok {
						continue
					}
					if k%4 == 3 {
						f := fates[rnd.IntN(len(fates))]
						ring := bytes.Clone(w.ring)
						w.put(ring, f)
						res, err := activitylog.Replay(bytes.NewReader(ring), 0, g)
						require.NoError(t, err)
						hot, out, code := d.apply(t, v08Unclean, ring, 67)
						require.Zero(t, code, out)
						require.Equal(t, res.Hot, hot, out)
						w.crash(t, ring)
					}
					w.commit()
				}
			})
		}
	}
}

// Rings that no kernel would write: whatever valid and damaged blocks they hold,
// Replay and the real tool agree.
func TestToolAgreesOnOddRings(t *testing.T) {
	g := activitylog.Geometry{Stripes: 2, StripeSize4k: 4}
	d := newToolDevice(t, g)
	rnd := rand.New(rand.NewPCG(5, 6))
	outcomes := map[string]int{}
	for range 150 {
		ring := oddRing(rnd, g)
		res, err := activitylog.Replay(bytes.NewReader(ring), 0, g)
		hot, out, code := d.apply(t, v08Unclean, ring, 67)
		switch {
		case errors.Is(err, activitylog.ErrNoLog):
			require.NotZero(t, code, out)
			require.Contains(t, out, "No usable activity log found")
			outcomes["no log"]++
		case errors.Is(err, activitylog.ErrDamaged):
			require.NotZero(t, code, out)
			require.Contains(t, out, "No valid AL update transaction found")
			outcomes["damaged"]++
		default:
			require.NoError(t, err)
			require.Zero(t, code, out)
			want := slices.DeleteFunc(res.Hot, func(e extent) bool { return e >= toolExtents })
			require.Equal(t, len(want), len(hot), out)
			require.True(t, slices.Equal(want, hot), "%v\n%v\n%s", want, hot, out)
			outcomes["hot"]++
		}
	}
	t.Log(outcomes)
	require.Len(t, outcomes, 3)
}

// The same for the form of 8.3: any ring of sectors, and any number of slots.
func TestToolAgreesOnOldRings(t *testing.T) {
	d := newToolDevice(t, eight)
	rnd := rand.New(rand.NewPCG(11, 12))
	nonEmpty := 0
	for range 100 {
		base := rnd.Uint32()
		area := oldArea()
		for pos := range 8 {
			var pairs []oldPair
			for range rnd.IntN(63) {
				p := oldPair{rnd.Uint32N(200), extent(rnd.Uint32N(toolExtents))}
				switch rnd.IntN(10) {
				case 0:
					p.extent = activitylog.Free
				case 1:
					p.slot = 65530 + rnd.Uint32N(8)
				}
				pairs = append(pairs, p)
			}
			number := base + uint32(pos)
			if rnd.IntN(4) == 0 {
				number = base + rnd.Uint32N(16)
			}
			if rnd.IntN(6) > 0 {
				copy(area[512*pos:], oldSector(number, pairs...))
			}
			area[512*pos+rnd.IntN(512)] ^= byte(rnd.IntN(8) / 7)
		}
		slots := 67 + rnd.IntN(400)
		format, err := activitylog.DetectFormat(bytes.NewReader(area), 0, eight, v08Clean)
		require.NoError(t, err)
		require.Equal(t, activitylog.FormatSectors, format)
		res, err := activitylog.ReplayOld(bytes.NewReader(area), 0, uint32(slots))
		require.NoError(t, err)
		hot, out, code := d.apply(t, v08Clean, area, slots)
		require.Zero(t, code, out)
		want := slices.DeleteFunc(res.Hot, func(e extent) bool { return e >= toolExtents })
		require.True(t, slices.Equal(want, hot), "%v\n%v\n%s", want, hot, out)
		nonEmpty += min(1, len(hot))
	}
	require.Greater(t, nonEmpty, 50)
}

// oddRing returns a ring of blocks with random but valid fields, initialised blocks
// and damaged ones.
func oddRing(rnd *rand.Rand, g activitylog.Geometry) []byte {
	ring := make([]byte, g.Bytes())
	base := rnd.Uint32()
	updates, initialised := rnd.IntN(4), rnd.IntN(9)
	if rnd.IntN(3) > 0 {
		updates = 12
	}
	for pos := range g.Blocks() {
		raw := (*[4096]byte)(ring[4096*g.Position(pos):])
		switch k := rnd.IntN(20); {
		case k < updates:
			b := oddBlock(rnd)
			b.Number = base + pos
			if rnd.IntN(4) == 0 {
				b.Number = base + rnd.Uint32N(16)
			}
			b.Encode(raw)
		case k < updates+initialised, k == 19 && updates == 0:
			activitylog.InitBlock(raw)
		}
	}
	if updates == 0 && rnd.IntN(2) == 0 {
		for pos := range g.Blocks() {
			activitylog.InitBlock((*[4096]byte)(ring[4096*g.Position(pos):]))
		}
		ring[4096*rnd.IntN(8)] ^= byte(rnd.IntN(2))
	}
	return ring
}

func oddBlock(rnd *rand.Rand) *activitylog.Block {
	b := &activitylog.Block{
		NUpdates:     uint16(rnd.IntN(70)),
		ContextSize:  uint16(rnd.IntN(200)),
		ContextStart: uint16(rnd.IntN(3) * 50),
	}
	if rnd.IntN(5) == 0 {
		b.ContextStart = uint16(65534 - rnd.IntN(100))
	}
	if rnd.IntN(8) == 0 {
		b.Type = activitylog.BlockType(rnd.IntN(0xffff)) // none that is known: counts as an update
	}
	some := func() extent {
		if rnd.IntN(3) == 0 {
			return activitylog.Free
		}
		return extent(rnd.Uint32N(toolExtents + 10))
	}
	for i := range b.Context {
		b.Context[i] = activitylog.Free
		if rnd.IntN(10) == 0 {
			b.Context[i] = some()
		}
	}
	for i := range b.UpdateSlot {
		b.UpdateSlot[i], b.UpdateExtent[i] = 0xffff, activitylog.Free
		if rnd.IntN(3) == 0 {
			b.UpdateSlot[i], b.UpdateExtent[i] = uint16(rnd.IntN(220)), some()
		}
		if rnd.IntN(30) == 0 {
			b.UpdateSlot[i] = uint16(65530 + rnd.IntN(6))
		}
	}
	return b
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

const goldenDir = "testdata/golden"

// golden is one image of testdata/golden, see the README there.
type golden struct {
	Name         string               `json:"name"`
	Format       string               `json:"format"`
	Index        string               `json:"meta_index"`
	DeviceBytes  int64                `json:"device_bytes"`
	RegionOffset int64                `json:"region_offset"`
	RegionLength int64                `json:"region_length"`
	Magic        string               `json:"magic"`
	Flags        string               `json:"flags"`
	SHA256       string               `json:"region_sha256"`
	ApplyExit    *int                 `json:"apply_al_rc"`
	ApplyStderr  string               `json:"apply_al_stderr"`
	Hot          []activitylog.Extent `json:"al_hot_extents"`
}

func goldens(t testing.TB) []golden {
	raw, err := os.ReadFile(filepath.Join(goldenDir, "manifest.json"))
	require.NoError(t, err)
	var gs []golden
	require.NoError(t, json.Unmarshal(raw, &gs))
	require.Len(t, gs, 28)
	return gs
}

func (g *golden) version(t testing.TB) Version {
	v, err := ParseVersion(g.Format)
	require.NoError(t, err)
	return v
}

func (g *golden) location(t testing.TB) Location {
	loc, err := ParseLocation(g.Index, g.version(t))
	require.NoError(t, err)
	return loc
}

func goldenRegion(t testing.TB, file string) []byte {
	f, err := os.Open(filepath.Join(goldenDir, file))
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	region, err := io.ReadAll(z)
	require.NoError(t, err)
	return region
}

// device returns the image, or with suffix ".applied" the one after apply-al.
func (g *golden) device(t testing.TB, suffix string) *sparse {
	region := goldenRegion(t, g.Name+suffix+".md.gz")
	require.EqualValues(t, g.RegionLength, len(region))
	d := newSparse(g.DeviceBytes)
	_, err := d.WriteAt(region, g.RegionOffset)
	require.NoError(t, err)
	d.log = nil
	return d
}

var flagsV08 = regexp.MustCompile(`(?m)^    flags 0x[0-9A-F]{8};$`)

// dumpText returns the tool's text; the flags of v08 that tools up to 9.32 print
// as zero are replaced by the true ones.
func (g *golden) dumpText(t testing.TB, suffix string, flags Flags) string {
	raw, err := os.ReadFile(filepath.Join(goldenDir, g.Name+suffix+".dump"))
	require.NoError(t, err)
	if g.version(t) != V08 {
		return string(raw)
	}
	text := appender("    flags ")
	text.hex8(uint32(flags)).text(";")
	return string(flagsV08.ReplaceAll(raw, text))
}

func dumpOf(t testing.TB, d *sparse, sb *Superblock, l Layout, opt DumpOptions) string {
	var out bytes.Buffer
	require.NoError(t, WriteDump(&out, d, sb, l, opt))
	return out.String()
}

func TestGoldenDecode(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.Name, func(t *testing.T) {
			d := g.device(t, "")
			sum := sha256.Sum256(d.bytes(g.RegionOffset, g.RegionLength))
			require.Equal(t, g.SHA256, hex.EncodeToString(sum[:]))

			sb, l, err := ReadVersion(d, g.version(t), g.location(t), g.DeviceBytes)
			require.NoError(t, err)
			flags, err := strconv.ParseUint(g.Flags, 0, 32)
			require.NoError(t, err)
			require.Equal(t, Flags(flags), sb.Flags)
			if sb.Version != V07 {
				require.Equal(t, g.Magic == "0x8374026c", sb.Unclean)
			}
			require.GreaterOrEqual(t, l.BitmapOffset, g.RegionOffset)

			var block [BlockSize]byte
			sb.Encode(&block)
			require.Equal(t, d.bytes(l.SuperblockOffset, BlockSize), block[:])

			fresh, err := NewLayout(sb.Version, l.Location, g.DeviceBytes, sb.Geometry())
			require.NoError(t, err)
			require.Equal(t, fresh, l)
		})
	}
}

func TestGoldenDump(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.Name, func(t *testing.T) {
			d := g.device(t, "")
			sb, l, err := Read(d, g.location(t), g.DeviceBytes)
			require.NoError(t, err)
			require.Equal(t, g.dumpText(t, "", sb.Flags), dumpOf(t, d, &sb, l, DumpOptions{}))
			if g.version(t) == V07 {
				return // has no dump by the newer tool
			}
			newer, err := os.ReadFile(filepath.Join(goldenDir, g.Name+".9.34.dump"))
			require.NoError(t, err)
			require.Equal(t, string(newer), dumpOf(t, d, &sb, l, DumpOptions{Members: true}))
		})
	}
}

func TestGoldenApplyAL(t *testing.T) {
	count := 0
	for _, g := range goldens(t) {
		if g.ApplyExit == nil {
			continue
		}
		count++
		t.Run(g.Name, func(t *testing.T) {
			require.Zero(t, *g.ApplyExit)
			d := g.device(t, "")
			res, err := ApplyAL(d, g.location(t), g.DeviceBytes)
			require.NoError(t, err)
			require.Equal(t, g.Hot, append([]activitylog.Extent{}, res.Replay.Hot...))
			require.Equal(t, g.ApplyStderr, strings.Join(res.Messages(err), "\n"))
			require.True(t, d.equal(g.device(t, ".applied")), "not the bytes the tool leaves")

			sb, l, err := Read(d, g.location(t), g.DeviceBytes)
			require.NoError(t, err)
			require.False(t, sb.NeedsApplyAL())
			require.Equal(t, g.dumpText(t, ".applied", sb.Flags), dumpOf(t, d, &sb, l, DumpOptions{}))

			d.log = nil
			again, err := ApplyAL(d, g.location(t), g.DeviceBytes)
			require.NoError(t, err)
			require.Empty(t, again.Replay.Hot)
			require.Zero(t, again.MarkedBits)
		})
	}
	require.Equal(t, 9, count)
}

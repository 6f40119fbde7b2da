// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/bitmap"
)

func TestOutdateInvalidate(t *testing.T) {
	sb := Superblock{Version: V08, Flags: Consistent | WasUpToDate | PeerOutdated | ALClean}
	require.Equal(t, DiskUpToDate, sb.DiskState())
	require.NoError(t, sb.Outdate())
	require.Equal(t, DiskOutdated, sb.DiskState())
	sb.Invalidate()
	require.Equal(t, DiskInconsistent, sb.DiskState())
	require.Equal(t, FullSync|PeerOutdated|ALClean, sb.Flags)
	require.ErrorIs(t, sb.Outdate(), ErrInconsistent)

	sb = Superblock{Version: V09, Flags: Consistent | WasUpToDate | PeerOutdated}
	require.Equal(t, DiskConsistent, sb.DiskState(), "v09 has no such bit")
	sb.Invalidate()
	require.Zero(t, sb.Flags&FullSync)
	for i := range sb.Peers {
		require.Equal(t, PeerFullSync, sb.Peers[i].Flags)
	}
	sb = Superblock{Version: V07, Flags: Consistent}
	require.Equal(t, DiskConsistent, sb.DiskState())
	require.ErrorIs(t, sb.Outdate(), ErrUnsupported)
	sb.Invalidate()
	require.Equal(t, FullSync, sb.Flags)
}

// TestForgetPeer: the freed slot holds what an unallocated one holds, or all ones;
// other slots and records stay.
func TestForgetPeer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := Geometry{MaxPeers: rapid.Uint32Range(1, 6).Draw(t, "peers")}
		const sectors = 300000
		l, err := NewLayout(V09, FlexExternal(), 256<<10, g)
		require.NoError(t, err)
		d := newSparse(l.DeviceBytes)
		sb, err := Create(d, V09, FlexExternal(), d.size, CreateOptions{Geometry: g, EffectiveSize: sectors})
		require.NoError(t, err)
		used := rapid.IntRange(1, int(g.MaxPeers)).Draw(t, "used")
		slots := rapid.Permutation([]int{0, 1, 2, 3, 4, 5}[:g.MaxPeers]).Draw(t, "slots")
		for node, slot := range slots[:used] {
			sb.Peers[node] = PeerRecord{BitmapUUID: UUID(100 + node), Flags: NodeExists, BitmapIndex: int32(slot)}
		}
		sb.NodeID = 31
		sb.Peers[30], sb.Peers[31] = PeerRecord{7, 8, 0, Unassigned}, PeerRecord{9, 9, 0, Unassigned}
		var bits []*bitmap.Bitmap
		for slot := range int(g.MaxPeers) {
			bits = append(bits, drawBits(t, d, l, sectors, slot))
		}
		node := rapid.IntRange(0, used-1).Draw(t, "node")
		want := sb
		want.Peers[node] = PeerRecord{7, 8, 0, Unassigned}
		require.NoError(t, ForgetPeer(d, &sb, l, node))
		require.Equal(t, want, sb)
		got, _, err := Read(d, FlexExternal(), d.size)
		require.NoError(t, err)
		require.Equal(t, want, got)
		for slot, b := range bits {
			switch {
			case slot != slots[node]:
				sameBits(t, b, d, l, slot)
			case used < int(g.MaxPeers):
				free := slots[used]
				for _, s := range slots[used:] {
					free = min(free, s)
				}
				sameBits(t, bits[free], d, l, slot)
			default:
				b.SetAll()
				sameBits(t, b, d, l, slot)
			}
		}
		requireWholeWords(t, d, l)
	})
}

// requireWholeWords: reading every slot back does not run into anything.
func requireWholeWords(t require.TestingT, d *sparse, l Layout) {
	for slot := range int(l.Geometry.MaxPeers) {
		b := bitmap.New(bitmap.BitsFor(1000))
		require.NoError(t, b.Load(d, l.BitmapOffset, slot, int(l.Geometry.MaxPeers)))
	}
}

func TestForgetPeerErrors(t *testing.T) {
	d := newSparse(1 << 20)
	sb, err := Create(d, V09, Internal(), d.size, CreateOptions{})
	require.NoError(t, err)
	l, err := sb.Layout(Internal(), d.size)
	require.NoError(t, err)
	require.ErrorIs(t, ForgetPeer(d, &sb, l, 32), ErrNodeID)
	require.ErrorIs(t, ForgetPeer(d, &sb, l, -1), ErrNodeID)
	require.NoError(t, ForgetPeer(d, &sb, l, 3), "a peer that was never there")
	sb.Version = V08
	require.ErrorIs(t, ForgetPeer(d, &sb, l, 3), ErrUnsupported)
}

func TestDetectContent(t *testing.T) {
	at := func(off int, s string) []byte {
		p := make([]byte, contentProbe)
		copy(p[off:], s)
		return p
	}
	le, be := binary.LittleEndian, binary.BigEndian
	ext := at(0x438, "\x53\xef")
	le.PutUint32(ext[0x404:], 1000)
	le.PutUint32(ext[0x418:], 2)
	ext64 := bytes.Clone(ext)
	le.PutUint32(ext64[0x460:], 0x80)
	le.PutUint32(ext64[0x550:], 1)
	xfs := at(0, "XFSB")
	be.PutUint32(xfs[4:], 4096)
	be.PutUint64(xfs[8:], 1000)
	huge := bytes.Clone(xfs)
	be.PutUint64(huge[8:], 1<<63)
	jfs := at(0x8000, "JFS1")
	le.PutUint64(jfs[0x8008:], 1000)
	le.PutUint32(jfs[0x8018:], 512)
	reiser := at(0x10034, "ReIsEr2Fs")
	le.PutUint32(reiser[0x10000:], 1000)
	le.PutUint16(reiser[0x1002c:], 4096)
	for _, c := range []struct {
		name    string
		head    []byte
		want    Content
		verdict ContentVerdict // for internal metadata with 63 MB usable
	}{
		{"nothing", make([]byte, contentProbe), Content{}, ContentHarmless},
		{"a byte", at(contentProbe-1, "x"), Content{Kind: ContentUnknown, Name: "some data"}, ContentAsk},
		{"short", []byte("x"), Content{Kind: ContentUnknown, Name: "some data"}, ContentAsk},
		{"swap", at(4086, "SWAPSPACE2"), Content{Kind: ContentKnown, Name: "swap space"}, ContentRefuse},
		{"old swap, 8 KiB pages", at(8182, "SWAP-SPACE"), Content{Kind: ContentKnown, Name: "swap space"}, ContentRefuse},
		{"LVM", at(0x218, "LVM2 001"), Content{Kind: ContentKnown, Name: "LVM2 physical volume"}, ContentRefuse},
		{"ext", ext, Content{ContentKnown, "ext2/ext3/ext4 filesystem", 4096000}, ContentAsk},
		{"ext with 64 bits", ext64, Content{ContentKnown, "ext2/ext3/ext4 filesystem", 4096000 + 4096<<32}, ContentRefuse},
		{"xfs", xfs, Content{ContentKnown, "xfs filesystem", 4096000}, ContentAsk},
		{"absurd xfs", huge, Content{ContentKnown, "xfs filesystem", 1<<64 - 1}, ContentRefuse},
		{"jfs", jfs, Content{ContentKnown, "jfs filesystem", 512000}, ContentAsk},
		{"reiserfs", reiser, Content{ContentKnown, "reiserfs filesystem", 4096000}, ContentAsk},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := DetectContent(bytes.NewReader(c.head))
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			l, err := NewLayout(V08, Internal(), 64<<20, Geometry{})
			require.NoError(t, err)
			require.Equal(t, c.verdict, got.Verdict(l))
			l, err = NewLayout(V08, FlexExternal(), 64<<20, Geometry{})
			require.NoError(t, err)
			want := c.verdict
			if c.want.Kind == ContentKnown {
				want = ContentRefuse
			}
			require.Equal(t, want, got.Verdict(l))
		})
	}
	_, err := DetectContent(&truncatedReader{})
	require.ErrorIs(t, err, errInjected)
}

type truncatedReader struct{}

func (truncatedReader) ReadAt([]byte, int64) (int, error) { return 0, errInjected }

// TestDetectRealContent looks at what the real programs make.
func TestDetectRealContent(t *testing.T) {
	for _, c := range []struct {
		program []string
		name    string
		size    uint64
	}{
		{[]string{"mkfs.ext4", "-q", "-F"}, "ext2/ext3/ext4 filesystem", 16 << 20},
		{[]string{"mkfs.ext2", "-q", "-F", "-b", "1024"}, "ext2/ext3/ext4 filesystem", 16 << 20},
		{[]string{"mkswap"}, "swap space", 0},
	} {
		t.Run(c.program[0], func(t *testing.T) {
			if _, err := exec.LookPath(c.program[0]); err != nil {
				if os.Getenv("CI") != "" {
					t.Fatalf("%s is missing", c.program[0])
				}
				t.Skipf("%s is missing: install e2fsprogs and util-linux", c.program[0])
			}
			path := filepath.Join(t.TempDir(), "device")
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			require.NoError(t, os.Truncate(path, 16<<20))
			out, err := exec.Command(c.program[0], append(c.program[1:], path)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			f, err := os.Open(path)
			require.NoError(t, err)
			defer f.Close()
			got, err := DetectContent(f)
			require.NoError(t, err)
			require.Equal(t, Content{ContentKnown, c.name, c.size}, got)
		})
	}
}

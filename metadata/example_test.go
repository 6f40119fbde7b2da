// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
)

// disk returns a sparse file of the given size, and how to get rid of it. A block
// device is used in the same way.
func disk(size int64) (f *os.File, remove func()) {
	f, err := os.CreateTemp("", "disk")
	if err != nil {
		panic(err)
	}
	if err := f.Truncate(size); err != nil {
		panic(err)
	}
	return f, func() { _ = f.Close(); _ = os.Remove(f.Name()) }
}

// Fresh metadata at the end of a disk, as "drbdmeta create-md" makes it.
func ExampleCreate() {
	const size = 64 << 20
	f, remove := disk(size)
	defer remove()

	if _, err := metadata.Create(f, metadata.V08, metadata.Internal(), size, metadata.CreateOptions{}); err != nil {
		fmt.Println(err)
		return
	}
	sb, layout, err := metadata.Read(f, metadata.Internal(), size)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s, current UUID %s, flags %s\n", sb.Version, sb.Current, sb.Flags)
	fmt.Printf("superblock at byte %d, %d sectors for data\n", layout.SuperblockOffset, layout.UsableSectors)
	// Output:
	// v08, current UUID 0000000000000004, flags ALClean
	// superblock at byte 67104768, 130992 sectors for data
}

func ExampleRead() {
	f, remove := disk(1 << 20)
	defer remove()
	_, _, err := metadata.Read(f, metadata.FlexExternal(), 1<<20)
	if errors.Is(err, metadata.ErrNoMetadata) {
		fmt.Println("nothing there")
	}
	// Output: nothing there
}

// Where everything of a DRBD 9 device for three peers goes, before touching a disk.
func ExampleNewLayout() {
	l, err := metadata.NewLayout(metadata.V09, metadata.Internal(), 10<<30, metadata.Geometry{MaxPeers: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("data          0 to", l.UsableSectors*metadata.SectorSize)
	fmt.Println("bitmap       ", l.BitmapOffset, "to", l.BitmapOffset+l.BitmapSize)
	fmt.Println("activity log ", l.ActivityLogOffset, "to", l.ActivityLogOffset+l.ActivityLogSize)
	fmt.Println("superblock   ", l.SuperblockOffset, "to", l.SuperblockOffset+metadata.BlockSize)
	// Output:
	// data          0 to 10736398336
	// bitmap        10736398336 to 10737381376
	// activity log  10737381376 to 10737414144
	// superblock    10737414144 to 10737418240
}

// What must happen after a crash before a kernel attaches the disk again.
func ExampleApplyAL() {
	const size = 64 << 20
	f, remove := disk(size)
	defer remove()
	sb, err := metadata.Create(f, metadata.V08, metadata.Internal(), size, metadata.CreateOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	layout, err := sb.Layout(metadata.Internal(), size)
	if err != nil {
		fmt.Println(err)
		return
	}
	sb.Unclean = true // as an attached device has it
	sb.Flags = metadata.Consistent | metadata.PrimaryInd
	if err := metadata.WriteSuperblock(f, layout, &sb); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(sb.CheckAttach(metadata.AttachTarget{MetaBytes: size}))

	res, err := metadata.ApplyAL(f, metadata.Internal(), size)
	fmt.Println(err, "hot extents:", len(res.Replay.Hot), "marked bits:", res.MarkedBits)
	// Output:
	// metadata: attach refused (error 165): metadata is unclean: apply the activity log first (apply-al)
	// <nil> hot extents: 0 marked bits: 0
}

func ExampleSuperblock_SetGI() {
	sb := metadata.Superblock{Version: metadata.V08, Current: metadata.UUIDJustCreated}
	if err := sb.SetGI(0, "AABBCCDDEEFF0010::::1:1"); err != nil {
		fmt.Println(err)
		return
	}
	line, err := sb.GI(0)
	fmt.Println(line, err)
	// Output: AABBCCDDEEFF0010:0000000000000000:0000000000000000:0000000000000000:1:1:0:0:0:0:0 <nil>
}

// A dump is text, and becomes metadata again, on a device of any size.
func ExampleParseDump() {
	f, remove := disk(8 << 20)
	defer remove()
	sb, err := metadata.Create(f, metadata.V08, metadata.FlexExternal(), 8<<20, metadata.CreateOptions{EffectiveSize: 2048})
	if err != nil {
		fmt.Println(err)
		return
	}
	layout, err := sb.Layout(metadata.FlexExternal(), 8<<20)
	if err != nil {
		fmt.Println(err)
		return
	}
	var text bytes.Buffer
	if err := metadata.WriteDump(&text, f, &sb, layout, metadata.DumpOptions{}); err != nil {
		fmt.Println(err)
		return
	}
	_, body, _ := strings.Cut(text.String(), "la-size-sect")
	fmt.Print("la-size-sect", body)

	dump, err := metadata.ParseDump(&text)
	if err != nil {
		fmt.Println(err)
		return
	}
	larger, removeLarger := disk(16 << 20)
	defer removeLarger()
	restored, _, err := dump.Restore(larger, metadata.Internal(), 16<<20, metadata.RestoreOptions{})
	fmt.Println(restored.EffectiveSize, "sectors,", err)
	// Output:
	// la-size-sect 2048;
	// bm-byte-per-bit 4096;
	// device-uuid 0x0000000000000000;
	// la-peer-max-bio-size 0;
	// al-stripes 1;
	// al-stripe-size-4k 8;
	// # bm-bytes 4096;
	// bm {
	//    # at 0kB
	//     512 times 0x0000000000000000;
	// }
	// # bits-set 0;
	// 2048 sectors, <nil>
}

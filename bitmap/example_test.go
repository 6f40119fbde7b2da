// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package bitmap_test

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/bitmap"
)

// Mark what a write leaves different, and walk over what has to be copied.
func Example() {
	m := bitmap.New(bitmap.BitsFor(1 << 31)) // 1 TiB of storage
	m.SetRange(1000, 1256)
	m.Set(1 << 27)
	m.Clear(1010)

	fmt.Println(m.Count(), "blocks differ")
	for from, to := range m.Ranges() {
		fmt.Printf("copy bytes %d to %d\n", from*bitmap.BlockSize, to*bitmap.BlockSize)
	}
	// Output:
	// 256 blocks differ
	// copy bytes 4096000 to 4136960
	// copy bytes 4141056 to 5144576
	// copy bytes 549755813888 to 549755817984
}

// Send a bitmap, compressed where that pays, and merge it at the other end.
func ExampleEncoder() {
	source, target := bitmap.New(2070), bitmap.New(2070)
	source.SetRange(4, 7)
	source.SetRange(100, 110)
	source.Set(1500)
	target.Set(0)

	maxBytes := bitmap.MaxBody(16) // packet headers of protocol 100 and later
	d := bitmap.NewDecoder(target)
	for e := bitmap.NewEncoder(source); !e.Done(); {
		body, compressed := e.Next(nil, maxBytes)
		var err error
		if compressed {
			fmt.Printf("P_COMPRESSED_BITMAP % x\n", body)
			err = d.Compressed(body, maxBytes)
		} else {
			body = e.Plain(nil, maxBytes)
			fmt.Printf("P_BITMAP of %d bytes\n", len(body))
			err = d.Plain(body, maxBytes)
		}
		if err != nil {
			fmt.Println(err) // drop the connection
			return
		}
	}
	fmt.Println(d.Done(), d.Changed(), "new,", target.Count(), "in all")
	// Output:
	// P_COMPRESSED_BITMAP 12 cd c7 72 f9 e9 21 fc 20 04
	// true 14 new, 15 in all
}

// Write the pages that changed. The copy is taken, and the page marked, under the
// volume's lock; the write happens outside.
func ExampleBitmap_DirtyPages() {
	m := bitmap.New(10 * bitmap.PageBits)
	m.Set(0)
	m.SetRange(3*bitmap.PageBits, 3*bitmap.PageBits+9)

	var page [bitmap.PageBytes]byte
	for p := range m.DirtyPages() {
		m.Page(p, &page)
		m.MarkClean(p) // and MarkDirty again if the write fails
		fmt.Printf("page %d: % x ...\n", p, page[:4])
	}
	fmt.Println(m.DirtyCount(), "left")
	// Output:
	// page 0: 01 00 00 00 ...
	// page 3: ff 01 00 00 ...
	// 0 left
}

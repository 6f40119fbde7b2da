// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// TestBitmapReplaced: every block of a volume is marked, and the volume changes its size
// and its superblock for other reasons as the disk is slow. With the power gone at any time
// the disk says that all its blocks are marked, or that the bitmap is not to be trusted.
func TestBitmapReplaced(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		const pages, pageSectors = 4, bitmap.PageBits * 8
		c := testCore(t, func(cfg *Config) { cfg.Peers = []PeerConfig{{}} })
		v := c.vols[0]
		l, err := metadata.NewLayout(metadata.V08, metadata.Internal(), pages*pageSectors*512+1<<20, metadata.Geometry{})
		require.NoError(t, err)
		v.layout, v.capacity, v.size, v.disk = l, l.UsableSectors, pageSectors, protocol.UpToDate
		v.sb, err = metadata.NewSuperblock(l, metadata.CreateOptions{})
		require.NoError(t, err)
		v.sb.Flags = metadata.PrimaryInd
		v.md.primary = true
		pd := v.pds[0]
		pd.bm = bitmap.New(bitmap.BitsFor(v.size))
		pd.bm.SetAll()

		disk := make([]byte, pages*bitmap.PageBytes)
		for p := range pd.bm.Pages() {
			pd.bm.Page(p, (*[bitmap.PageBytes]byte)(disk[p*bitmap.PageBytes:]))
			pd.bm.MarkClean(p)
		}
		super := v.superblock()
		var held []*Op
		finish := func(i int) {
			o := held[i]
			held = append(held[:i], held[i+1:]...)
			switch {
			case o.Kind != OpWrite:
			case o.Off == l.SuperblockOffset:
				super, err = metadata.Decode(o.Buf)
				require.NoError(t, err)
			default:
				copy(disk[o.Off-l.BitmapOffset:], o.Buf)
			}
			for b := range bitmap.BitsFor(super.EffectiveSize) {
				if super.Flags&metadata.FullSync == 0 && disk[b/8]&(1<<(b%8)) == 0 {
					r.Fatalf("block %d of %d is not marked", b, bitmap.BitsFor(super.EffectiveSize))
				}
			}
			c.OpDone(o)
		}
		var e Effects
		step := func() {
			c.settle()
			e.Reset()
			c.Take(&e)
			held = append(held, e.Ops...)
		}
		for range rapid.IntRange(1, 300).Draw(r, "steps") {
			switch rapid.IntRange(0, 6).Draw(r, "what") {
			case 0:
				v.resize(rapid.Uint64Range(1, pages).Draw(r, "pages")*pageSectors-rapid.Uint64Range(0, 2).Draw(r, "less")*800, false)
			case 1:
				v.setAllOutOfSync(pd)
			case 2: // what a promotion and a demotion do to the superblock
				v.sb.Flags ^= metadata.PrimaryInd
				v.md.dirty = true
			case 3: // a page that is written for any other reason
				pd.bm.MarkDirty(rapid.IntRange(0, pd.bm.Pages()-1).Draw(r, "page"))
				v.writeBitmap(nil, func(error) {})
			default:
				if n := len(held); n > 0 {
					finish(rapid.IntRange(0, n-1).Draw(r, "op"))
				}
			}
			step()
		}
		for len(held) > 0 {
			finish(0)
			step()
		}
		require.True(t, !v.bmw.running && !v.md.writing && !v.md.dirty && v.gates == 0, "something still waits")
		require.Zero(t, super.Flags&metadata.FullSync, "the bitmap is on disk")
		require.Equal(t, v.size, super.EffectiveSize)
	})
}

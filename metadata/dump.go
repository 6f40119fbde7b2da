// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bufio"
	"encoding/binary"
	"io"
	"math/bits"
	"strconv"
)

// uncleanMarker is the line that keeps restore-md from taking a dump of metadata
// whose activity log was not applied: no keyword looks like it.
const uncleanMarker = "This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap."

// DumpOptions are the choices of [WriteDump].
type DumpOptions struct {
	// Members always writes the "members" line of v09, as the tools from 9.27
	// on do. Otherwise it is written only if there are members: tools up to
	// 9.26 refuse the line, later ones do without.
	Members bool
}

// WriteDump writes the text dump of metadata, from the "version" line on, as
// dump-md does (spec: on-disk 7): a header with date and command line is the
// caller's affair. The text of unclean metadata (see [Superblock.NeedsApplyAL])
// contains a line that makes every parser refuse it. sb's EffectiveSize must have
// been clipped to l. The bitmap is read from dev as it is written; memory use does
// not depend on its size. It returns the errors of w and dev.
func WriteDump(w io.Writer, dev io.ReaderAt, sb *Superblock, l Layout, opt DumpOptions) error {
	buf := bufio.NewWriterSize(w, 1<<16)
	head := AppendDump(nil, sb, l, opt)
	if _, err := buf.Write(head); err != nil {
		return err
	}
	size := l.BitmapBytes(sb.EffectiveSize)
	d := dumper{w: buf, peers: int64(l.Geometry.MaxPeers)}
	var ones uint64
	for slot := range d.peers {
		if sb.Version == V09 {
			d.text("bitmap[").num(slot).text("] ")
		} else {
			d.text("bm ")
		}
		words := wordRuns{dev: dev, offset: l.BitmapOffset, size: size, slot: slot, peers: d.peers}
		if err := d.bitmap(&words); err != nil {
			return err
		}
		ones = words.ones // of the last slot alone, as the tool has it
	}
	d.text("# bits-set ").num(int64(ones)).text(";\n")
	return buf.Flush()
}

// AppendDump appends the part of [WriteDump]'s text that comes before the bitmap.
func AppendDump(dst []byte, sb *Superblock, l Layout, opt DumpOptions) []byte {
	t := appender(dst)
	t.text("version \"").text(sb.Version.String()).text("\";\n\n")
	if sb.NeedsApplyAL() {
		t.text(uncleanMarker).text("\n# You should \"apply-al\" first, if you plan to restore this.\n\n")
	}
	if sb.Version == V09 {
		t.text("max-peers ").num(int64(sb.MaxPeers)).text(";\n")
	}
	t.text("# md_size_sect ").num(int64(sb.MDSizeSectors))
	t.text("\n# md_offset ").num(l.SuperblockOffset)
	t.text("\n# al_offset ").num(l.ActivityLogOffset)
	t.text("\n# bm_offset ").num(l.BitmapOffset).text("\n\n")
	switch sb.Version {
	case V07:
		t.text("gc {\n   ")
		for _, n := range sb.wordsV07() {
			t.text(" ").num(int64(int32(*n))).text(";") // the tool prints them as signed
		}
		t.text("\n}\n")
	case V08:
		t.text("uuid {\n    ").hex16(uint64(sb.Current)).text("; ").hex16(uint64(sb.Bitmap)).
			text("; ").hex16(uint64(sb.History[0])).text("; ").hex16(uint64(sb.History[1])).
			text(";\n    flags ").hex8(uint32(sb.Flags)).text(";\n}\n")
	case V09:
		t.bodyV09(sb, opt)
	}
	t.text("# al-extents ").num(int64(sb.ALExtents))
	t.text(";\nla-size-sect ").unum(sb.EffectiveSize).text(";\n")
	if sb.Version != V07 {
		t.text("bm-byte-per-bit ").num(int64(sb.BytesPerBit))
		t.text(";\ndevice-uuid ").hex16(sb.DeviceUUID)
		t.text(";\nla-peer-max-bio-size ").num(int64(sb.PeerMaxBioSize))
		t.text(";\nal-stripes ").num(int64(sb.ALStripes))
		t.text(";\nal-stripe-size-4k ").num(int64(sb.ALStripeSize4k)).text(";\n")
	}
	t.text("# bm-bytes ").num(l.BitmapBytes(sb.EffectiveSize)).text(";\n")
	return t
}

func (t *appender) bodyV09(sb *Superblock, opt DumpOptions) {
	t.text("node-id ").num(int64(sb.NodeID)).text(";\ncurrent-uuid ").hex16(uint64(sb.Current))
	t.text(";\nflags ").hex8(uint32(sb.Flags)).text(";\n")
	if opt.Members || sb.Members != 0 {
		t.text("members ").hex16(sb.Members).text(";\n")
	}
	for i := range sb.Peers {
		p := &sb.Peers[i]
		t.text("peer[").num(int64(i)).text("] {\n    bitmap-index ").num(int64(p.BitmapIndex))
		t.text(";\n    bitmap-uuid ").hex16(uint64(p.BitmapUUID))
		t.text(";\n    bitmap-dagtag ").hex16(p.BitmapDagtag)
		t.text(";\n    flags ").hex8(uint32(p.Flags)).text(";")
		if p.Flags != 0 {
			t.text(" # ").text(p.Flags.String())
		}
		t.text("\n}\n")
	}
	t.text("history-uuids {\n")
	for i, u := range sb.History {
		if i%4 == 0 {
			t.text("       ")
		}
		t.text(" ").hex16(uint64(u)).text(";")
		if i%4 == 3 {
			t.text("\n")
		}
	}
	t.text("}\n")
}

// appender builds text in a byte slice.
type appender []byte

func (t *appender) text(s string) *appender { *t = append(*t, s...); return t }
func (t *appender) num(n int64) *appender   { *t = strconv.AppendInt(*t, n, 10); return t }
func (t *appender) unum(n uint64) *appender { *t = strconv.AppendUint(*t, n, 10); return t }

func (t *appender) hex16(n uint64) *appender {
	return t.hex8(uint32(n >> 32)).hexDigits(uint32(n))
}

func (t *appender) hex8(n uint32) *appender { return t.text("0x").hexDigits(n) }

func (t *appender) hexDigits(n uint32) *appender {
	for shift := 28; shift >= 0; shift -= 4 {
		*t = append(*t, "0123456789ABCDEF"[n>>shift&15])
	}
	return t
}

// dumper writes the bitmap's text.
type dumper struct {
	w     *bufio.Writer
	peers int64
	buf   appender
}

func (d *dumper) text(s string) *dumper { _, _ = d.w.WriteString(s); return d } // Flush reports the error
func (d *dumper) num(n int64) *dumper {
	d.buf = d.buf[:0]
	d.buf.num(n)
	_, _ = d.w.Write(d.buf)
	return d
}

func (d *dumper) value(high, low uint32) {
	d.buf = d.buf[:0]
	d.buf.hex8(high).hexDigits(low)
	_, _ = d.w.Write(d.buf)
}

// bitmap writes the words of one slot (spec: on-disk 7.2): two 32-bit words make a
// value, the first is the lower half; eight words make a line; runs of at least
// 16 equal words are folded; an odd last word is not written.
func (d *dumper) bitmap(words *wordRuns) error {
	d.text("{")
	var k int64
	var low uint32
	for {
		word, n, err := words.next()
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		for ; n > 0; n, k = n-1, k+1 {
			if k%8 == 0 {
				d.newLine(k, words.slot)
				if run := n &^ 7; run > 8 {
					d.text(" ").num(run/2).text(" times ").value(word, word)
					d.text(";")
					n, k = n-run+1, k+run-1 // the loop does the last step
					continue
				}
			}
			if k%2 == 0 {
				low = word
				continue
			}
			d.text(" ").value(word, low)
			d.text(";")
		}
	}
	d.text("\n}\n")
	return nil
}

// newLine begins a line of values. Now and then it says how far we are; the tool's
// figure is right for one slot and 4096 bytes per bit.
func (d *dumper) newLine(k, slot int64) {
	if (k*d.peers+slot)&63 == slot {
		d.text("\n   # at ").num(128 * k * d.peers).text("kB")
	}
	d.text("\n   ")
}

// wordRuns reads the 32-bit words of one slot of the bitmap as runs of equal ones.
type wordRuns struct {
	dev          io.ReaderAt
	offset, size int64 // of the bitmap's meaningful part, bytes
	slot, peers  int64
	ones         uint64 // bits set so far

	buf        []byte
	at, filled int64 // bytes of the bitmap in buf

	pos  int64 // index, within the slot, of the next word to be read
	word uint32
	held int64 // words read that belong to the next run
}

const wordRunsBuffer = 1 << 18

// next returns the next run, n = 0 at the end.
func (r *wordRuns) next() (word uint32, n int64, err error) {
	word, n, r.held = r.word, r.held, 0
	for {
		chunk, err := r.chunk()
		if err != nil {
			return 0, 0, err
		}
		if chunk == nil {
			break
		}
		var used int64
		for i := 0; i+4 <= len(chunk); i += int(4 * r.peers) {
			w := binary.LittleEndian.Uint32(chunk[i:])
			used++
			if n == 0 {
				word = w
			} else if w != word {
				r.word, r.held = w, 1
				break
			}
			n++
		}
		r.pos += used
		if r.held > 0 {
			break
		}
	}
	r.ones += uint64(n) * uint64(bits.OnesCount32(word))
	return word, n, nil
}

// chunk returns unread bytes, beginning with the word at r.pos; nil at the end.
func (r *wordRuns) chunk() ([]byte, error) {
	at := 4 * (r.pos*r.peers + r.slot)
	if at+4 > r.size {
		return nil, nil
	}
	if r.buf == nil {
		r.buf = make([]byte, min(r.size, wordRunsBuffer))
	}
	if r.filled == 0 || at+4 > r.at+r.filled {
		r.at, r.filled = at, min(r.size-at, int64(len(r.buf)))
		if err := readFull(r.dev, r.buf[:r.filled], r.offset+at); err != nil {
			return nil, err
		}
	}
	return r.buf[at-r.at : r.filled], nil
}

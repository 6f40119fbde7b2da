// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bufio"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
)

// Dump is a parsed text dump: what restore-md reads.
type Dump struct {
	// Superblock has the values of the text. What is only a comment there is
	// missing: MDSizeSectors, the offsets and ALExtents are 0.
	Superblock Superblock

	// Bitmaps has one list of runs for each bitmap slot.
	Bitmaps [][]BitmapRun
}

// BitmapRun is Count equal 64-bit words of a bitmap slot. The lower half of Word
// comes first on disk.
type BitmapRun struct {
	Count uint64
	Word  uint64
}

// ErrUncleanDump says that a dump was made, with force, of metadata whose activity
// log had not been applied. Its bitmap lacks what the log knew.
var ErrUncleanDump = errors.New("metadata: dump of unclean metadata, its bitmap is not to be trusted: dump again after apply-al")

// ParseDump reads a text dump of any version (spec: on-disk 7.3). It is total: any
// text gives a Dump, or an error: ErrUncleanDump, a *DumpError, or the reader's.
// Memory grows with the text, not with what its repeat counts say. Where a number
// cannot be meant, like a negative size, it is stricter than the tool.
func ParseDump(r io.Reader) (*Dump, error) {
	p := dumpParser{lex: dumpLexer{r: bufio.NewReaderSize(r, 1<<16), line: 1}}
	p.advance()
	d := p.file()
	if p.err != nil {
		return nil, p.err
	}
	return d, nil
}

// dumpParser is a recursive-descent parser with one token of lookahead. After the
// first error every method does nothing, so the grammar reads without checks.
type dumpParser struct {
	lex dumpLexer
	tok token
	err error
}

func (p *dumpParser) advance() {
	if p.err == nil {
		p.tok, p.err = p.lex.next()
	}
}

func (p *dumpParser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = p.lex.errorf(format, args...)
	}
}

// expected fails with what was found instead.
func (p *dumpParser) expected(what string) {
	found := p.tok.text
	if p.tok.kind == tokenEOF {
		found = "the end"
	}
	p.fail("%s expected, not %s", what, found)
}

func (p *dumpParser) is(kind tokenKind, text string) bool {
	return p.err == nil && p.tok.kind == kind && p.tok.text == text
}

// punct takes the given punctuation marks.
func (p *dumpParser) punct(marks string) {
	for _, m := range marks {
		if p.err == nil && !p.is(tokenPunct, string(m)) {
			p.expected(string(m))
		}
		p.advance()
	}
}

func (p *dumpParser) keyword(word string) {
	if strings.HasPrefix(p.tok.text, "This_is_an_unclean") && p.err == nil {
		p.err = ErrUncleanDump
	}
	if p.err == nil && !p.is(tokenWord, word) {
		p.expected("keyword " + word)
	}
	p.advance()
}

// number takes a decimal number in a range.
func (p *dumpParser) number(low, high int64) int64 {
	if p.err == nil && p.tok.kind != tokenNumber {
		p.expected("a decimal number")
	}
	if p.err != nil {
		return low
	}
	n, err := strconv.ParseInt(p.tok.text, 10, 64)
	if err != nil || n < low || n > high {
		p.fail("number %s is not in %d..%d", p.tok.text, low, high)
		return low
	}
	p.advance()
	return n
}

func (p *dumpParser) hex(kind tokenKind) uint64 {
	if p.err == nil && p.tok.kind != kind {
		p.expected(map[tokenKind]string{tokenHex8: "an 8-digit hexadecimal number", tokenHex16: "a 16-digit hexadecimal number"}[kind])
	}
	if p.err != nil {
		return 0
	}
	v := p.tok.hex
	p.advance()
	return v
}

// Statements: a value and its semicolon, the last with its keyword.
func (p *dumpParser) hex16() uint64 { v := p.hex(tokenHex16); p.punct(";"); return v }
func (p *dumpParser) hex8() uint32  { v := p.hex(tokenHex8); p.punct(";"); return uint32(v) }

func (p *dumpParser) setting(word string, low, high int64) int64 {
	p.keyword(word)
	n := p.number(low, high)
	p.punct(";")
	return n
}

func (p *dumpParser) file() *Dump {
	d := &Dump{}
	sb := &d.Superblock
	p.keyword("version")
	if p.err == nil && p.tok.kind != tokenString {
		p.expected("a quoted version")
	}
	if p.err == nil {
		v, err := ParseVersion(p.tok.text)
		if err != nil {
			p.fail("unknown version %q", p.tok.text)
		}
		*sb = Superblock{
			Version: v, MaxPeers: 1, NodeID: Unassigned, BytesPerBit: DefaultBytesPerBit,
			ALStripes: defaultALStripes, ALStripeSize4k: defaultALStripeSize4k,
		}
	}
	p.advance()
	p.punct(";")
	switch sb.Version {
	case V07:
		p.bodyV07(sb)
	case V08:
		p.bodyV08(sb)
	case V09:
		p.bodyV09(sb)
	}
	p.sizes(sb)
	p.bitmaps(d)
	if p.err == nil && p.tok.kind != tokenEOF {
		p.expected("end of file")
	}
	return d
}

func (p *dumpParser) bodyV07(sb *Superblock) {
	p.keyword("gc")
	p.punct("{")
	for _, n := range sb.wordsV07() {
		*n = uint32(p.number(math.MinInt32, math.MaxUint32))
		p.punct(";")
	}
	p.punct("}")
}

func (p *dumpParser) bodyV08(sb *Superblock) {
	p.keyword("uuid")
	p.punct("{")
	for _, u := range []*UUID{&sb.Current, &sb.Bitmap, &sb.History[0], &sb.History[1]} {
		*u = UUID(p.hex16())
	}
	p.keyword("flags")
	sb.Flags = Flags(p.hex8())
	p.punct("}")
}

func (p *dumpParser) bodyV09(sb *Superblock) {
	sb.MaxPeers = uint32(p.setting("max-peers", 1, MaxPeers))
	sb.NodeID = int32(p.setting("node-id", Unassigned, PeerRecords-1))
	p.keyword("current-uuid")
	sb.Current = UUID(p.hex16())
	p.keyword("flags")
	sb.Flags = Flags(p.hex8())
	if p.is(tokenWord, "members") {
		p.advance()
		sb.Members = p.hex16()
	}
	seen := [PeerRecords]bool{}
	for range PeerRecords {
		p.peer(sb, &seen)
	}
	p.keyword("history-uuids")
	p.punct("{")
	for i := range sb.History {
		sb.History[i] = UUID(p.hex16())
	}
	p.punct("}")
}

func (p *dumpParser) peer(sb *Superblock, seen *[PeerRecords]bool) {
	p.keyword("peer")
	p.punct("[")
	n := p.number(0, PeerRecords-1)
	p.punct("]{")
	if p.err != nil {
		return
	}
	if seen[n] {
		p.fail("peer %d is there twice", n)
	}
	seen[n] = true
	rec := &sb.Peers[n]
	rec.BitmapIndex = int32(p.setting("bitmap-index", Unassigned, PeerRecords-1))
	p.keyword("bitmap-uuid")
	rec.BitmapUUID = UUID(p.hex16())
	p.keyword("bitmap-dagtag")
	rec.BitmapDagtag = p.hex16()
	p.keyword("flags")
	rec.Flags = PeerFlags(p.hex8())
	p.punct("}")
}

func (p *dumpParser) sizes(sb *Superblock) {
	sb.EffectiveSize = uint64(p.setting("la-size-sect", 0, math.MaxInt64))
	if sb.Version == V07 || p.err != nil {
		return
	}
	sb.BytesPerBit = uint32(p.setting("bm-byte-per-bit", 0, math.MaxUint32))
	p.keyword("device-uuid")
	sb.DeviceUUID = p.hex16()
	// The tool prints this one as signed.
	sb.PeerMaxBioSize = uint32(p.setting("la-peer-max-bio-size", math.MinInt32, math.MaxUint32))
	sb.ALStripes = uint32(p.setting("al-stripes", 0, math.MaxUint32))
	sb.ALStripeSize4k = uint32(p.setting("al-stripe-size-4k", 0, math.MaxUint32))
	if err := sb.Geometry().check(sb.Version); err != nil {
		p.fail("%s", strings.TrimPrefix(err.Error(), corruptPrefix))
	}
}

func (p *dumpParser) bitmaps(d *Dump) {
	for slot := range int64(d.Superblock.MaxPeers) {
		if p.err != nil {
			return
		}
		if d.Superblock.Version == V09 {
			p.keyword("bitmap")
			p.punct("[")
			p.number(slot, slot)
			p.punct("]")
		} else {
			p.keyword("bm")
		}
		d.Bitmaps = append(d.Bitmaps, p.runs())
	}
}

// runs takes the words of one slot. Equal neighbours are joined.
func (p *dumpParser) runs() []BitmapRun {
	var runs []BitmapRun
	p.punct("{")
	for p.err == nil && !p.is(tokenPunct, "}") {
		run := BitmapRun{Count: 1}
		if p.tok.kind == tokenNumber {
			run.Count = uint64(p.number(0, math.MaxInt64))
			p.keyword("times")
		}
		run.Word = p.hex16()
		last := len(runs) - 1
		switch {
		case run.Count == 0:
		case last >= 0 && runs[last].Word == run.Word && runs[last].Count <= math.MaxInt64:
			runs[last].Count += run.Count // both at most 2^63 - 1 before: no overflow
		default:
			runs = append(runs, run)
		}
	}
	p.punct("}")
	return runs
}

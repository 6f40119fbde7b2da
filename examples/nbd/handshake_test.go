// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func memory(name string, size int64) Export {
	return Export{Name: name, Description: "of " + name, Backend: NewMemory(size)}
}

func TestList(t *testing.T) {
	s := newServer(t, Config{}, memory("b", 1<<20), memory("a", 1<<20))
	c := dial(t, listen(t, s), flagFixedNewstyle|flagNoZeroes)
	list := c.option(optList, nil)
	require.Len(t, list, 3)
	require.Equal(t, "\x00\x00\x00\x01aof a", string(list[0].data))
	require.Equal(t, "\x00\x00\x00\x01bof b", string(list[1].data))
	require.EqualValues(t, repErrInvalid, c.one(optList, []byte{1}))
	require.Equal(t, []string{"a", "b"}, s.Exports())
}

func TestAbort(t *testing.T) {
	c := dial(t, listen(t, newServer(t, Config{})), flagFixedNewstyle)
	require.EqualValues(t, repAck, c.one(optAbort, nil))
	c.gone()
}

// A client is told of what it may use, and nothing is opened for INFO.
func TestInfo(t *testing.T) {
	opened := 0
	e := memory("disk", 1<<20)
	e.MinBlock, e.Open = 512, func(context.Context) error { opened++; return nil }
	ro := memory("ro", 1<<20)
	ro.ReadOnly = true
	c := dial(t, listen(t, newServer(t, Config{}, e, ro)), flagFixedNewstyle)
	list := c.option(optInfo, encodeInfo("disk", infoName, infoDescription))
	require.Len(t, list, 5)
	require.Zero(t, opened)
	tx := uint16(txHasFlags | txSendFlush | txSendFUA | txSendTrim | txSendZeroes | txSendFastZeroes | txCanMultiConn)
	want := binary.BigEndian.AppendUint16([]byte{0, infoExport, 0, 0, 0, 0, 0, 0x10, 0, 0}, tx)
	require.Equal(t, want, list[0].data)
	require.Equal(t, "\x00\x01disk", string(list[1].data))
	require.Equal(t, "\x00\x02of disk", string(list[2].data))
	require.Equal(t, []byte{0, infoBlockSize, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0}, list[3].data)
	require.EqualValues(t, repAck, list[4].kind)

	list = c.option(optInfo, encodeInfo("ro"))
	require.Equal(t, uint16(txHasFlags|txSendFlush|txSendFUA|txReadOnly|txCanMultiConn), binary.BigEndian.Uint16(list[0].data[10:]))

	require.EqualValues(t, repErrUnknown, c.one(optInfo, encodeInfo("other")))
	require.EqualValues(t, repErrUnknown, c.one(optGo, encodeInfo("other")))
	require.EqualValues(t, repErrInvalid, c.one(optGo, encodeInfo("disk")[:5]))
	require.EqualValues(t, repErrInvalid, c.one(optGo, append(encodeInfo("disk"), 0)))
	require.EqualValues(t, repErrUnsup, c.one(11, nil), "extended headers")
	require.Equal(t, tx, c.enter("disk"))
	require.Equal(t, 1, opened)
}

func TestExportName(t *testing.T) {
	addr := listen(t, newServer(t, Config{}, memory("", 1<<20)))
	for _, test := range []struct{ flags, padding uint32 }{
		{0, 124}, {flagFixedNewstyle, 124}, {flagFixedNewstyle | flagNoZeroes, 0},
	} {
		c := dial(t, addr, test.flags)
		c.write(encodeOption(optExportName, nil))
		require.EqualValues(t, 1<<20, binary.BigEndian.Uint64(c.read(8)))
		require.NotZero(t, binary.BigEndian.Uint16(c.read(2))&txHasFlags)
		require.Equal(t, make([]byte, test.padding), c.read(int(test.padding)))
		require.Zero(t, c.do(cmdRead, 0, 0, 512, nil).errno)
	}
	c := dial(t, addr, flagFixedNewstyle)
	c.write(encodeOption(optExportName, []byte("other")))
	c.gone()
}

func TestClientsThatBreakTheHandshake(t *testing.T) {
	addr := listen(t, newServer(t, Config{}, memory("", 1<<20)))
	t.Run("unknown flags", func(t *testing.T) { dial(t, addr, 1<<7).gone() })
	t.Run("not fixed newstyle", func(t *testing.T) {
		c := dial(t, addr, 0)
		c.write(encodeOption(optList, nil))
		c.gone()
	})
	t.Run("no magic", func(t *testing.T) {
		c := dial(t, addr, flagFixedNewstyle)
		c.write(make([]byte, optionHeaderSize))
		c.gone()
	})
	t.Run("huge option", func(t *testing.T) {
		c := dial(t, addr, flagFixedNewstyle)
		b := encodeOption(optGo, nil)
		binary.BigEndian.PutUint32(b[12:], 1<<32-1)
		c.write(b)
		h := c.read(20)
		require.EqualValues(t, repErrTooBig, binary.BigEndian.Uint32(h[12:]))
		c.read(int(binary.BigEndian.Uint32(h[16:])))
		c.gone()
	})
	t.Run("too many options", func(t *testing.T) {
		c := dial(t, addr, flagFixedNewstyle)
		for range maxOptions {
			require.EqualValues(t, repErrUnsup, c.one(99, nil))
		}
		c.gone()
	})
}

func TestMetaContexts(t *testing.T) {
	addr := listen(t, newServer(t, Config{}, memory("a", 1<<20), memory("b", 1<<20)))
	c := dial(t, addr, flagFixedNewstyle)
	require.EqualValues(t, repErrInvalid, c.one(optSetMeta, encodeMeta("a", metaAllocation)), "no structured replies yet")
	require.EqualValues(t, repErrInvalid, c.one(optStructuredReply, []byte{1}))
	require.EqualValues(t, repAck, c.one(optStructuredReply, nil))
	for _, q := range [][]string{nil, {"base:"}, {metaAllocation}, {"x:y", metaAllocation}} {
		list := c.option(optListMeta, encodeMeta("a", q...))
		require.Len(t, list, 2, "%q", q)
		require.Equal(t, "\x00\x00\x00\x00"+metaAllocation, string(list[0].data))
	}
	require.EqualValues(t, repAck, c.one(optListMeta, encodeMeta("a", "qemu:dirty-bitmap:x", "base:alloc")))
	require.EqualValues(t, repAck, c.one(optSetMeta, encodeMeta("a")))
	require.EqualValues(t, repErrUnknown, c.one(optSetMeta, encodeMeta("x", metaAllocation)))
	for cut := range len(encodeMeta("a", metaAllocation)) {
		require.EqualValues(t, repErrInvalid, c.one(optSetMeta, encodeMeta("a", metaAllocation)[:cut]), "%d", cut)
	}
	many := encodeMeta("a")
	binary.BigEndian.PutUint32(many[5:], 1<<32-1)
	require.EqualValues(t, repErrInvalid, c.one(optSetMeta, many))

	// A context of one export is none of another's.
	require.Len(t, c.option(optSetMeta, encodeMeta("a", metaAllocation)), 2)
	c.enter("b")
	require.Equal(t, EINVAL, c.do(cmdBlockStatus, 0, 0, 4096, nil).errno)
}

// An export that cannot be opened refuses the client with a reason, and the client
// may ask for another one.
func TestOpenRefuses(t *testing.T) {
	broken := memory("broken", 1<<20)
	broken.Open = func(context.Context) error { return errors.New("the other node is Primary") }
	going := memory("going", 1<<20)
	going.Open = func(context.Context) error { return fmt.Errorf("%w: now", ESHUTDOWN) }
	s := newServer(t, Config{}, broken, going, memory("unsized", 0), memory("fine", 1<<20))
	c := dial(t, listen(t, s), flagFixedNewstyle)
	list := c.option(optGo, encodeInfo("broken"))
	require.EqualValues(t, repErrPolicy, list[0].kind)
	require.Equal(t, "the other node is Primary", string(list[0].data))
	require.EqualValues(t, repErrShutdown, c.one(optGo, encodeInfo("going")))
	require.EqualValues(t, repErrPolicy, c.one(optGo, encodeInfo("unsized")))
	require.EqualValues(t, repErrPolicy, c.one(optInfo, encodeInfo("unsized")))
	require.NoError(t, s.Remove(t.Context(), "broken"), "nobody is there to wait for")
	c.enter("fine")
}

func TestConfigurations(t *testing.T) {
	_, err := NewServer(Config{MaxBytes: 1 << 20})
	require.ErrorContains(t, err, "MaxBytes")
	s := newServer(t, Config{}, memory("a", 1<<20))
	for _, e := range []Export{
		{}, memory("a", 1), memory(strings.Repeat("x", maxString+1), 1),
		{Backend: NewMemory(1), MinBlock: 3}, {Backend: NewMemory(1), MinBlock: 128 << 10},
		{Backend: NewMemory(1), PreferredBlock: 256}, {Backend: NewMemory(1), MinBlock: 4096, PreferredBlock: 2048},
	} {
		require.ErrorIs(t, s.Add(e), ErrExport)
	}
	require.ErrorIs(t, s.Remove(t.Context(), "b"), ErrUnknownExport)
}

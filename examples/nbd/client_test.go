// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// client is the other side, as simple as can be: it says exactly what a test wants.
type client struct {
	t  testing.TB
	nc net.Conn
	r  *bufio.Reader
}

// reply is what came back for a request.
type reply struct {
	structured bool
	kind       uint16 // of a chunk
	errno      Errno
	cookie     uint64
	data       []byte
}

// optReply is one reply to an option.
type optReply struct {
	kind uint32
	data []byte
}

// newServer returns a server that is closed at the end of the test.
func newServer(t testing.TB, cfg Config, exports ...Export) *Server {
	s, err := NewServer(cfg)
	require.NoError(t, err)
	for _, e := range exports {
		require.NoError(t, s.Add(e))
	}
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// listen serves on a port of its own and returns its address.
func listen(t testing.TB, s *Server) net.Addr {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go s.Serve(l) // ends with the server's Close, which waits for it
	return l.Addr()
}

// dial connects and answers the greeting with flags.
func dial(t testing.TB, addr net.Addr, flags uint32) *client {
	nc, err := net.Dial(addr.Network(), addr.String())
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	c := &client{t: t, nc: nc, r: bufio.NewReader(nc)}
	h := c.read(18)
	require.Equal(t, "NBDMAGICIHAVEOPT", string(h[:16]))
	require.Equal(t, []byte{0, 3}, h[16:])
	c.write(binary.BigEndian.AppendUint32(nil, flags))
	return c
}

func (c *client) read(n int) []byte {
	b := make([]byte, n)
	_, err := io.ReadFull(c.r, b)
	require.NoError(c.t, err)
	return b
}

func (c *client) write(b []byte) {
	_, err := c.nc.Write(b)
	require.NoError(c.t, err)
}

// gone checks that the server has hung up.
func (c *client) gone() {
	n, err := c.r.Read(make([]byte, 1))
	require.Error(c.t, err)
	require.Zero(c.t, n)
}

func encodeOption(opt uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// option sends an option and returns the replies to it, up to the last.
func (c *client) option(opt uint32, data []byte) []optReply {
	c.write(encodeOption(opt, data))
	var list []optReply
	for {
		h := c.read(20)
		require.Equal(c.t, uint64(magicReply), binary.BigEndian.Uint64(h))
		require.Equal(c.t, opt, binary.BigEndian.Uint32(h[8:]))
		kind := binary.BigEndian.Uint32(h[12:])
		list = append(list, optReply{kind, c.read(int(binary.BigEndian.Uint32(h[16:])))})
		if kind == repAck || kind&(1<<31) != 0 {
			return list
		}
	}
}

// one is option for those with a single reply, whose kind it returns.
func (c *client) one(opt uint32, data []byte) uint32 {
	list := c.option(opt, data)
	require.Len(c.t, list, 1)
	return list[0].kind
}

func encodeInfo(name string, wanted ...uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(wanted)))
	for _, w := range wanted {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return b
}

func encodeMeta(name string, queries ...string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = binary.BigEndian.AppendUint32(b, uint32(len(q)))
		b = append(b, q...)
	}
	return b
}

// enter enters an export and returns the transmission flags.
func (c *client) enter(name string) (flags uint16) {
	list := c.option(optGo, encodeInfo(name))
	require.Equal(c.t, uint32(repAck), list[len(list)-1].kind, "%s", list[len(list)-1].data)
	for _, r := range list {
		if r.kind == repInfo && binary.BigEndian.Uint16(r.data) == infoExport {
			flags = binary.BigEndian.Uint16(r.data[10:])
		}
	}
	return flags
}

// open returns a client that has entered an export, with structured replies and
// base:allocation or without.
func open(t testing.TB, addr net.Addr, name string, structured bool) *client {
	c := dial(t, addr, flagFixedNewstyle|flagNoZeroes)
	if structured {
		require.EqualValues(t, repAck, c.one(optStructuredReply, nil))
		require.Len(t, c.option(optSetMeta, encodeMeta(name, metaAllocation)), 2)
	}
	c.enter(name)
	return c
}

func encodeRequest(r request, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, r.flags)
	b = binary.BigEndian.AppendUint16(b, r.command)
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	b = binary.BigEndian.AppendUint64(b, r.offset)
	b = binary.BigEndian.AppendUint32(b, r.length)
	return append(b, data...)
}

// send sends a request, receive returns the next reply; n is how much data a simple
// reply without error has.
func (c *client) send(r request, data []byte) { c.write(encodeRequest(r, data)) }

func (c *client) receive(n int) (r reply) {
	switch magic := binary.BigEndian.Uint32(c.read(4)); magic {
	case magicSimple:
		h := c.read(12)
		r.errno, r.cookie = Errno(binary.BigEndian.Uint32(h)), binary.BigEndian.Uint64(h[4:])
		if r.errno == 0 {
			r.data = c.read(n)
		}
	case magicChunk:
		h := c.read(16)
		require.EqualValues(c.t, chunkFlagDone, binary.BigEndian.Uint16(h))
		r.structured, r.kind, r.cookie = true, binary.BigEndian.Uint16(h[2:]), binary.BigEndian.Uint64(h[4:])
		r.data = c.read(int(binary.BigEndian.Uint32(h[12:])))
		if r.kind == chunkError {
			r.errno = Errno(binary.BigEndian.Uint32(r.data))
			require.EqualValues(c.t, len(r.data)-6, binary.BigEndian.Uint16(r.data[4:]))
			r.data = r.data[6:]
		}
	default:
		require.Fail(c.t, fmt.Sprintf("magic %#x", magic))
	}
	return r
}

// do sends a request and waits for its reply.
func (c *client) do(command, flags uint16, off uint64, n uint32, data []byte) reply {
	r := request{command: command, flags: flags, cookie: off ^ uint64(n)<<32 ^ uint64(command), offset: off, length: n}
	c.send(r, data)
	want := 0
	if command == cmdRead {
		want = int(n)
	}
	got := c.receive(want)
	require.Equal(c.t, r.cookie, got.cookie)
	return got
}

// secure goes on over TLS.
func (c *client) secure(cfg *tls.Config) error {
	require.EqualValues(c.t, repAck, c.one(optStartTLS, nil))
	tc := tls.Client(c.nc, cfg)
	if err := tc.Handshake(); err != nil {
		return err
	}
	c.nc, c.r = tc, bufio.NewReader(tc)
	return nil
}

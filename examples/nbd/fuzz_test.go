// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// script is a client that says what it has to say, and hears nothing.
type script struct {
	io.Reader
	replies bytes.Buffer
}

func newScript(b []byte) *script { return &script{Reader: bytes.NewReader(b)} }

func (s *script) Write(b []byte) (int, error)      { return s.replies.Write(b) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

func dialReader(nc net.Conn) *bufio.Reader { return bufio.NewReader(nc) }

func fuzzServer(t *testing.T) *Server {
	small := memory("small", 1<<20)
	small.MinBlock = 512
	return newServer(t, Config{MaxRequests: 2}, memory("", 1<<20), small)
}

// FuzzHandshake: whatever a client says, the server answers with whole replies and
// then is gone.
func FuzzHandshake(f *testing.F) {
	flags := []byte{0, 0, 0, 3}
	seed := func(parts ...[]byte) { f.Add(bytes.Join(append([][]byte{flags}, parts...), nil)) }
	seed()
	seed(encodeOption(optExportName, nil))
	seed(encodeOption(optExportName, []byte("small")), encodeRequest(request{command: cmdRead, length: 512}, nil))
	seed(encodeOption(optList, nil), encodeOption(optAbort, nil))
	seed(encodeOption(optStartTLS, nil), []byte{22, 3, 1, 0, 5})
	seed(encodeOption(optStructuredReply, nil), encodeOption(optListMeta, encodeMeta("", "base:")),
		encodeOption(optSetMeta, encodeMeta("", metaAllocation)), encodeOption(optInfo, encodeInfo("", 1, 2, 3)),
		encodeOption(optGo, encodeInfo("")), encodeRequest(request{command: cmdBlockStatus, length: 1 << 20}, nil))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := fuzzServer(t)
		c := newScript(b)
		s.ServeConn(c) // an error is as good as none
		out := c.replies.Bytes()
		require.GreaterOrEqual(t, len(out), 18)
		out = out[18:]
		for len(out) >= 20 && binary.BigEndian.Uint64(out) == magicReply {
			n := int(binary.BigEndian.Uint32(out[16:]))
			require.LessOrEqual(t, n, len(out)-20)
			out = out[20+n:]
		}
	})
}

// FuzzRequests: whatever comes after the handshake, every reply is one to a request,
// and no request has two.
func FuzzRequests(f *testing.F) {
	add := func(structured bool, parts ...[]byte) { f.Add(structured, bytes.Join(parts, nil)) }
	add(true, encodeRequest(request{command: cmdWrite, length: 4}, []byte("data")), encodeRequest(request{command: cmdRead, cookie: 1, length: 4}, nil))
	add(false, encodeRequest(request{command: cmdRead, length: 1 << 31}, nil), encodeRequest(request{command: cmdDisc}, nil))
	add(true, encodeRequest(request{command: cmdBlockStatus, flags: cmdFlagReqOne, length: 1 << 20}, nil))
	add(true, encodeRequest(request{command: cmdWriteZeroes, flags: cmdFlagNoHole, offset: 5, length: 1 << 19}, nil), encodeRequest(request{command: cmdTrim, length: 1 << 20}, nil))
	add(false, encodeRequest(request{command: cmdFlush}, nil), []byte("rubbish"))
	f.Fuzz(func(t *testing.T, structured bool, b []byte) {
		in := []byte{0, 0, 0, 3}
		if structured {
			in = append(in, encodeOption(optStructuredReply, nil)...)
			in = append(in, encodeOption(optSetMeta, encodeMeta("", metaAllocation))...)
		}
		in = append(in, encodeOption(optExportName, nil)...)
		c := newScript(append(in, b...))
		s := fuzzServer(t)
		s.ServeConn(c)
		sent := map[uint64][]request{}
		for len(b) >= requestHeaderSize {
			r, ok := decodeRequest(b)
			if !ok || r.command == cmdDisc {
				break
			}
			sent[r.cookie] = append(sent[r.cookie], r)
			b = b[requestHeaderSize:]
			if r.command == cmdWrite {
				b = b[min(len(b), int(r.length)):]
			}
		}
		checkReplies(t, afterHandshake(t, c.replies.Bytes()), sent)
	})
}

// afterHandshake skips the greeting, the replies to options and to EXPORT_NAME.
func afterHandshake(t *testing.T, b []byte) []byte {
	b = b[18:]
	for len(b) >= 20 && binary.BigEndian.Uint64(b) == magicReply {
		b = b[20+int(binary.BigEndian.Uint32(b[16:])):]
	}
	require.GreaterOrEqual(t, len(b), 10)
	return b[10:]
}

// checkReplies takes replies apart and crosses out the requests they belong to.
func checkReplies(t *testing.T, b []byte, sent map[uint64][]request) {
	require.True(t, explained(b, sent), "a reply to nothing, or one that is cut off or has too much: %x", b)
}

// explained reports whether every reply is one to a request of its own. With one cookie
// for several a reply says little of which it is: try all.
func explained(b []byte, sent map[uint64][]request) bool {
	if len(b) == 0 {
		return true
	}
	if len(b) < simpleReplySize {
		return false
	}
	simple := binary.BigEndian.Uint32(b) == magicSimple
	cookie := binary.BigEndian.Uint64(b[8:])
	all := sent[cookie]
	defer func() { sent[cookie] = all }()
	type kind struct {
		read   bool
		length uint32
	}
	tried := map[kind]bool{}
	for i, r := range all {
		k := kind{read: r.command == cmdRead}
		if k.read {
			k.length = r.length
		}
		n := simpleReplySize
		switch {
		case !simple && len(b) >= chunkHeaderSize:
			n = chunkHeaderSize + int(binary.BigEndian.Uint32(b[16:]))
		case k.read && binary.BigEndian.Uint32(b[4:]) == 0:
			n += int(r.length)
		}
		if tried[k] || n > len(b) || n < len(b) && !isReply(b[n:]) {
			continue
		}
		tried[k] = true
		sent[cookie] = append(append([]request(nil), all[:i]...), all[i+1:]...)
		if explained(b[n:], sent) {
			return true
		}
	}
	return false
}

func isReply(b []byte) bool {
	if len(b) < simpleReplySize {
		return false
	}
	m := binary.BigEndian.Uint32(b)
	return m == magicSimple || m == magicChunk
}

// FuzzOptions: the decoders of options take any bytes, and what they read is what
// encoding it again gives.
func FuzzOptions(f *testing.F) {
	f.Add(encodeInfo("disk", 1, 2, 3))
	f.Add(encodeMeta("disk", "base:", metaAllocation))
	f.Add([]byte{0, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		if name, wanted, ok := decodeInfo(b); ok {
			require.Equal(t, b, encodeInfo(name, wanted...))
		}
		if name, queries, ok := decodeMeta(b); ok {
			require.Equal(t, b, encodeMeta(name, queries...))
		}
	})
}

// failing is a connection that breaks at the n-th byte it is to send.
type failing struct {
	*script
	left int
}

func (f *failing) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errors.New("broken pipe")
	}
	return f.script.Write(b)
}

// A connection that breaks at any place ends, whatever was being said.
func TestBrokenConnections(t *testing.T) {
	in := bytes.Join([][]byte{
		{0, 0, 0, 3}, encodeOption(optList, nil), encodeOption(optStructuredReply, nil),
		encodeOption(optSetMeta, encodeMeta("", metaAllocation)), encodeOption(optGo, encodeInfo("")),
		encodeRequest(request{command: cmdWrite, length: 4}, []byte("data")), encodeRequest(request{command: cmdRead, length: 4}, nil),
	}, nil)
	s := fuzzServer(t)
	whole := newScript(in)
	require.NoError(t, s.ServeConn(whole))
	for n := range whole.replies.Len() {
		s.ServeConn(&failing{script: newScript(in), left: n})
	}
	for n := range len(in) {
		s.ServeConn(newScript(in[:n]))
	}
	require.NoError(t, s.Remove(t.Context(), ""), "nobody is left")
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// This file reads the captures in testdata/captures: gzipped pcap files of TCP over
// Ethernet, and beside each a listing of its packets.

// tcpConn is one TCP connection of a capture, both directions put together.
type tcpConn struct {
	number   int // in order of the SYNs, as in the listings
	dialler  string
	accepter string
	// sent holds the byte stream of each node by name.
	sent map[string][]byte
}

// segment is one TCP segment; offset counts from the first byte after the SYN.
type segment struct {
	offset uint32
	data   []byte
}

type halfConn struct {
	isn      uint32
	known    bool
	segments []segment
}

type endpoints struct {
	src, dst         [4]byte
	srcPort, dstPort uint16
}

func (e endpoints) reversed() endpoints {
	return endpoints{src: e.dst, dst: e.src, srcPort: e.dstPort, dstPort: e.srcPort}
}

// readCapture returns the TCP connections of a capture.
func readCapture(t testing.TB, path string) []*tcpConn {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	raw, err := io.ReadAll(z)
	require.NoError(t, err)

	require.GreaterOrEqual(t, len(raw), 24)
	require.Equal(t, uint32(0xa1b2c3d4), binary.LittleEndian.Uint32(raw), "pcap magic, microseconds")
	require.Equal(t, uint32(1), binary.LittleEndian.Uint32(raw[20:]), "Ethernet link type")

	var conns []*tcpConn
	halves := map[*tcpConn]*[2]halfConn{} // dialler, accepter
	open := map[endpoints]*tcpConn{}      // by the dialler's view
	for rest := raw[24:]; len(rest) > 0; {
		size := binary.LittleEndian.Uint32(rest[8:])
		frame := rest[16 : 16+size]
		rest = rest[16+size:]
		ends, seq, flags, payload := parseTCP(t, frame)
		const syn, ack = 0x02, 0x10
		if flags&(syn|ack) == syn {
			c := &tcpConn{number: len(conns), dialler: "n0", accepter: "n1", sent: map[string][]byte{}}
			if ends.dstPort == 7788 {
				c.dialler, c.accepter = "n1", "n0"
			}
			conns = append(conns, c)
			open[ends] = c
			halves[c] = &[2]halfConn{}
		}
		c, side := open[ends], 0
		if c == nil {
			c, side = open[ends.reversed()], 1
		}
		if c == nil { // the end of a connection that began before the capture
			require.Empty(t, payload, "data without a connection")
			continue
		}
		h := &halves[c][side]
		if flags&syn != 0 && !h.known {
			h.isn, h.known = seq, true
		}
		if len(payload) > 0 {
			h.segments = append(h.segments, segment{offset: seq - h.isn - 1, data: payload})
		}
	}
	for _, c := range conns {
		c.sent[c.dialler] = halves[c][0].assemble(t)
		c.sent[c.accepter] = halves[c][1].assemble(t)
	}
	return conns
}

func parseTCP(t testing.TB, frame []byte) (ends endpoints, seq uint32, flags byte, payload []byte) {
	t.Helper()
	require.Equal(t, uint16(0x0800), binary.BigEndian.Uint16(frame[12:]), "IPv4")
	ip := frame[14:]
	ip = ip[:binary.BigEndian.Uint16(ip[2:])] // without the Ethernet padding
	require.Equal(t, byte(6), ip[9], "TCP")
	copy(ends.src[:], ip[12:16])
	copy(ends.dst[:], ip[16:20])
	tcp := ip[int(ip[0]&15)*4:]
	ends.srcPort = binary.BigEndian.Uint16(tcp)
	ends.dstPort = binary.BigEndian.Uint16(tcp[2:])
	return ends, binary.BigEndian.Uint32(tcp[4:]), tcp[13], tcp[int(tcp[12]>>4)*4:]
}

// assemble puts the segments in order and drops what was sent twice.
func (h *halfConn) assemble(t testing.TB) []byte {
	t.Helper()
	sort.SliceStable(h.segments, func(i, j int) bool { return h.segments[i].offset < h.segments[j].offset })
	var b bytes.Buffer
	for _, s := range h.segments {
		next := uint32(b.Len())
		require.LessOrEqual(t, s.offset, next, "hole in the capture")
		if end := s.offset + uint32(len(s.data)); end > next {
			b.Write(s.data[next-s.offset:])
		}
	}
	return b.Bytes()
}

// listed is one line of a listing.
type listed struct {
	from, name, form, fields string
	conn                     int
	volume                   uint16
	length                   uint32
}

// listing is what a .txt file says about its capture.
type listing struct {
	packets []listed
	counts  map[string]int
}

var (
	listedPacket = regexp.MustCompile(`^ *\d+\.\d+ (n\d)>n\d [DM?]#(\d+) (h\d+) +v(\d+) (P_[A-Z0-9_]+) +len=(\d+) *(.*)$`)
	listedCount  = regexp.MustCompile(`'(P_[A-Z0-9_]+)': (\d+)`)
)

func readListing(t testing.TB, path string) listing {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	l := listing{counts: map[string]int{}}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "# counts"):
			for _, m := range listedCount.FindAllStringSubmatch(line, -1) {
				l.counts[m[1]] = atoi(t, m[2])
			}
		case strings.HasPrefix(line, "# leftovers"):
			require.Equal(t, "# leftovers []", line)
		case strings.HasPrefix(line, "#"), strings.Contains(line, " -- TCP "):
		default:
			m := listedPacket.FindStringSubmatch(line)
			require.NotNil(t, m, "line not understood: %s", line)
			l.packets = append(l.packets, listed{
				from: m[1], conn: atoi(t, m[2]), form: m[3], volume: uint16(atoi(t, m[4])),
				name: m[5], length: uint32(atoi(t, m[6])), fields: strings.TrimSpace(m[7]),
			})
		}
	}
	require.NoError(t, lines.Err())
	require.NotEmpty(t, l.counts)
	return l
}

// of returns the packets node sent on connection conn.
func (l listing) of(node string, conn int) []listed {
	var out []listed
	for _, p := range l.packets {
		if p.from == node && p.conn == conn {
			out = append(out, p)
		}
	}
	return out
}

func atoi(t testing.TB, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

// captures returns the paths of all captures without their suffix.
func captures(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "captures", "*.pcap.gz"))
	require.NoError(t, err)
	require.Len(t, paths, 28, "captures in testdata")
	for i := range paths {
		paths[i] = strings.TrimSuffix(paths[i], ".pcap.gz")
	}
	return paths
}

func (c *tcpConn) String() string { return fmt.Sprintf("#%d %s>%s", c.number, c.dialler, c.accepter) }

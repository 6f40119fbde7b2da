// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// TestCaptures decodes every byte of every recorded connection with a Linux kernel,
// compares what it finds with the listing made by an independent decoder, and
// encodes each packet again to the same bytes.
func TestCaptures(t *testing.T) {
	seen := map[protocol.Command]int{}
	for _, path := range captures(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			r := replay{t: t, want: readListing(t, path+".txt"), counts: map[string]int{}, seen: seen}
			r.run(readCapture(t, path+".pcap.gz"))
			require.Equal(t, r.want.counts, r.counts)
		})
	}
	for _, c := range []protocol.Command{ // spec: wire 11, seen on the wire from a kernel
		protocol.CmdData, protocol.CmdDataReply, protocol.CmdRSDataReply, protocol.CmdBarrier, protocol.CmdBitmap,
		protocol.CmdUnplugRemote, protocol.CmdDataRequest, protocol.CmdRSDataRequest, protocol.CmdSyncParam,
		protocol.CmdProtocol, protocol.CmdUUIDs, protocol.CmdSizes, protocol.CmdState, protocol.CmdSyncUUID,
		protocol.CmdAuthChallenge, protocol.CmdAuthResponse, protocol.CmdStateChgReq, protocol.CmdStateChgReply,
		protocol.CmdPing, protocol.CmdPingAck, protocol.CmdRecvAck, protocol.CmdWriteAck, protocol.CmdRSWriteAck,
		protocol.CmdSuperseded, protocol.CmdBarrierAck, protocol.CmdOVRequest, protocol.CmdOVReply,
		protocol.CmdOVResult, protocol.CmdCsumRSRequest, protocol.CmdRSIsInSync, protocol.CmdSyncParam89,
		protocol.CmdCompressedBitmap, protocol.CmdOutOfSync, protocol.CmdConnStChgReq, protocol.CmdConnStChgReply,
		protocol.CmdProtocolUpdate, protocol.CmdTrim, protocol.CmdZeroes, protocol.CmdRSThinReq,
		protocol.CmdRSDeallocated, protocol.CmdInitialData, protocol.CmdInitialMeta, protocol.CmdConnectionFeatures,
	} {
		require.NotZero(t, seen[c], "%v is in no capture", c)
	}
}

// replay runs one capture.
type replay struct {
	t      *testing.T
	want   listing
	counts map[string]int
	seen   map[protocol.Command]int

	challenges map[string][]byte // by the node that sent it, of the current pair
}

// run decodes pair by pair: the data connection first, because it tells the version
// the meta connection is in.
func (r *replay) run(conns []*tcpConn) {
	var data, meta []*tcpConn
	for _, c := range conns {
		first := c.sent[c.dialler]
		if len(first) == 0 {
			continue // refused
		}
		st, err := protocol.DecodeInitial(first[:8])
		require.NoError(r.t, err)
		if st == protocol.DataStream {
			data = append(data, c)
		} else {
			meta = append(meta, c)
		}
	}
	require.Equal(r.t, len(data), len(meta))
	for i := range data {
		v, f := r.negotiated(data[i])
		r.challenges = map[string][]byte{}
		for _, node := range []string{data[i].dialler, data[i].accepter} {
			r.direction(data[i], protocol.DataStream, node, v, f)
		}
		for _, node := range []string{meta[i].dialler, meta[i].accepter} {
			r.direction(meta[i], protocol.MetaStream, node, v, f)
		}
	}
}

// negotiated reads the two feature packets of a data connection.
func (r *replay) negotiated(c *tcpConn) (protocol.Version, protocol.Features) {
	var offers [2]protocol.ConnectionFeatures
	for i, at := range map[string]int{c.dialler: 8, c.accepter: 0} {
		b := c.sent[i][at:]
		h, err := protocol.DecodeHeader(b[:8], 0)
		require.NoError(r.t, err)
		require.Equal(r.t, protocol.CmdConnectionFeatures, h.Command)
		side := 0
		if i == c.accepter {
			side = 1
		}
		require.NoError(r.t, offers[side].Decode(b[8:8+72], &protocol.Session{}))
	}
	v, f, err := protocol.Negotiate(offers[0], offers[1])
	require.NoError(r.t, err)
	v2, f2, err := protocol.Negotiate(offers[1], offers[0])
	require.NoError(r.t, err)
	require.Equal(r.t, v, v2)
	require.Equal(r.t, f, f2)
	return v, f
}

// direction decodes what node sent on c, as its peer does.
func (r *replay) direction(c *tcpConn, st protocol.Stream, node string, v protocol.Version, f protocol.Features) {
	t := r.t
	want := r.want.of(node, c.number)
	var s protocol.Session
	if st == protocol.MetaStream && node == c.accepter {
		s.Version, s.Features = v, f // only the dialler sends P_INITIAL_META
	}
	var alg protocol.Digest
	rest := c.sent[node]
	i := 0
	for ; len(rest) > 0; i++ {
		n := protocol.HeaderSize(s.Version)
		require.GreaterOrEqual(t, len(rest), n, "%v: torn header from %s", c, node)
		h, err := protocol.DecodeHeader(rest[:n], s.Version)
		require.NoError(t, err)
		require.NoError(t, s.CheckHeader(st, h))
		total := n + int(h.Length)
		require.GreaterOrEqual(t, len(rest), total, "%v: torn packet from %s", c, node)
		packet := rest[:total]
		rest = rest[total:]
		require.Less(t, i, len(want), "%v: more packets from %s than listed", c, node)
		p := r.packet(&s, alg, h, packet, want[i])

		r.counts[h.Command.String()]++
		r.seen[h.Command]++
		switch p := p.(type) {
		case *protocol.ConnectionFeatures:
			s.Version, s.Features = v, f
		case *protocol.Protocol:
			alg, err = protocol.LookupDigest(p.IntegrityAlg)
			require.NoError(t, err)
			s.PeerDigestSize = alg.Size()
		case *protocol.AuthChallenge:
			r.challenges[node] = p.Challenge
		case *protocol.AuthResponse:
			r.response(c, node, p.Response, want[i].fields)
		}
		if h.Command == protocol.CmdInitialMeta {
			s.Version, s.Features = v, f // all later packets of meta have the final form
		}
	}
	require.Len(t, want, i, "%v: fewer packets from %s than listed", c, node)
}

// packet checks one packet in all ways, and returns its decoded body.
func (r *replay) packet(s *protocol.Session, alg protocol.Digest, h protocol.Header, packet []byte, want listed) protocol.Packet {
	t := r.t
	n := protocol.HeaderSize(s.Version)
	front := packet[n : n+s.PayloadOffset(h)]
	data := packet[n+len(front):]
	p, err := protocol.DecodePacket(s, h.Command, front)
	require.NoError(t, err, "%v", h)

	require.Equal(t, want.name, h.Command.String())
	require.Equal(t, want.length, h.Length)
	require.Equal(t, want.volume, h.Volume)
	require.Equal(t, want.form, headerForm(packet))
	got := fields(h, p)
	digest := s.DigestIn(h, front)
	if d, ok := p.(*protocol.Data); ok && d.Size == 0 {
		got += fmt.Sprintf(" size=%d", len(data))
		if digest != nil {
			require.NoError(t, alg.Verify(data, digest))
			require.Equal(t, digest, alg.Sum(nil, data))
			got += fmt.Sprintf(" %s=%x ok", alg.Name(), digest)
		}
	}
	if got != want.fields && !strings.HasPrefix(want.fields, got+" ") {
		t.Fatalf("%v:\n decoded %s\n listed  %s", h.Command, got, want.fields)
	}

	again := protocol.AppendPacket(nil, s, h.Command, h.Volume, p, len(digest)+len(data))
	again = append(again, digest...) // the data is what follows, and the same
	require.Equal(t, headerForm(packet), headerForm(again))
	original := append([]byte(nil), packet[:n+len(front)]...)
	clearPadding(h.Command, original[n:])
	require.Equal(t, original, again, "%v", h)
	return p
}

// clearPadding sets to zero what the kernel leaves uninitialised inside bodies: the
// last four bytes of a block request and of P_OUT_OF_SYNC. spec: wire 4.7, 4.16.
func clearPadding(c protocol.Command, body []byte) {
	switch c {
	case protocol.CmdDataRequest, protocol.CmdRSDataRequest, protocol.CmdRSThinReq,
		protocol.CmdOVRequest, protocol.CmdOVReply, protocol.CmdCsumRSRequest:
		clear(body[20:24])
	case protocol.CmdOutOfSync:
		clear(body[12:16])
	}
}

func headerForm(packet []byte) string {
	switch magic := binary.BigEndian.Uint32(packet); {
	case magic == 0x83740267:
		return "h80"
	case magic>>16 == 0x835a:
		return "h95"
	case magic == 0x8620ec20:
		return "h100"
	}
	return "?"
}

// response checks a recorded answer to a challenge with the secret it was made with.
func (r *replay) response(c *tcpConn, node string, response []byte, fields string) {
	secret := map[bool]string{true: "sekrit-for-wire-test", false: "other"}[strings.Contains(fields, "(right,")]
	peer := c.dialler
	if node == peer {
		peer = c.accepter
	}
	challenge := r.challenges[peer]
	if challenge == nil { // the peer's stream is decoded later: its challenge follows the features
		n := protocol.HeaderSize(101)
		at := 8 + 72 + n
		if peer == c.dialler {
			at += 8
		}
		challenge = c.sent[peer][at : at+64]
	}
	require.NoError(r.t, protocol.CheckChallenge(r.challenges[node], challenge))
	require.NoError(r.t, protocol.VerifyResponse("sha1", []byte(secret), challenge, response))
	require.ErrorIs(r.t, protocol.VerifyResponse("sha1", []byte("neither"), challenge, response), protocol.ErrAuthentication)
}

// fields prints a packet as the listings do.
func fields(h protocol.Header, p protocol.Packet) string {
	switch p := p.(type) {
	case *protocol.Data:
		s := fmt.Sprintf("sector=%d id=%s seq=%d flags=%v", p.Sector, id(p.ID), p.Seq, p.Flags)
		if p.Size != 0 {
			s += fmt.Sprintf(" size=%d", p.Size)
		}
		return s
	case *protocol.BlockRequest:
		s := fmt.Sprintf("sector=%d size=%d id=%s", p.Sector, p.Size, id(p.ID))
		if p.Digest != nil {
			s += fmt.Sprintf(" digest=%x", p.Digest)
		}
		return s
	case *protocol.BlockDescription:
		return fmt.Sprintf("sector=%d size=%d", p.Sector, p.Size)
	case *protocol.BlockAck:
		return fmt.Sprintf("sector=%d size=%d id=%s seq=%d", p.Sector, p.Size, id(p.ID), p.Seq)
	case *protocol.Barrier:
		return barrier(p.Number) + " pad=00000000"
	case *protocol.BarrierAck:
		return fmt.Sprintf("%s set_size=%d", barrier(p.Number), p.SetSize)
	case *protocol.State:
		return fmt.Sprintf("0x%06x %v", p.Word(), p)
	case *protocol.StateRequest:
		return fmt.Sprintf("mask=0x%06x val=0x%06x %v", p.Mask.Word(), p.Value.Word(), p)
	case *protocol.StateReply:
		return fmt.Sprintf("retcode=%d", int32(p.Code))
	case *protocol.UUIDs:
		return fmt.Sprintf("cur=%016X bm=%016X h0=%016X h1=%016X dirty=%d flags=%d",
			p.Current, p.Bitmap, p.History[0], p.History[1], p.BitmapBits, p.Flags)
	case *protocol.SyncUUID:
		return fmt.Sprintf("uuid=%016X", p.UUID)
	case *protocol.Bitmap:
		return fmt.Sprintf("plain %d bytes, bit offset", len(p.Bytes))
	case *protocol.CompressedBitmap:
		start := 0
		if p.StartsSet {
			start = 1
		}
		first := protocol.CompressedBitmap{StartsSet: p.StartsSet, PadBits: p.PadBits}.AppendTo(nil, nil)
		return fmt.Sprintf("enc=0x%02x (code=2 pad=%d start=%d) code=%x: bits", first[0], p.PadBits, start, p.Code)
	}
	return parameterFields(h, p)
}

func parameterFields(h protocol.Header, p protocol.Packet) string {
	switch p := p.(type) {
	case *protocol.ConnectionFeatures:
		return fmt.Sprintf("min=%d max=%d features=0x%x", p.Min, p.Max, uint32(p.Features))
	case *protocol.AuthChallenge:
		return fmt.Sprintf("challenge(%d)=%x..", len(p.Challenge), p.Challenge[:8])
	case *protocol.AuthResponse:
		return fmt.Sprintf("response(%d)=%s", len(p.Response), hex.EncodeToString(p.Response))
	case *protocol.Protocol:
		return fmt.Sprintf("protocol=%v after_sb=%d/%d/%d conn_flags=%d two_primaries=%d integrity_alg=%q",
			p.Replication, p.AfterSB0, p.AfterSB1, p.AfterSB2, p.Flags, number(p.TwoPrimaries), p.IntegrityAlg)
	case *protocol.SyncParam:
		switch {
		case h.Command == protocol.CmdSyncParam && h.Length == 4:
			return fmt.Sprintf("resync_rate=%d", p.Rate)
		case h.Command == protocol.CmdSyncParam:
			return fmt.Sprintf("resync_rate=%d verify=b'%s'", p.Rate, p.VerifyAlg)
		}
		s := fmt.Sprintf("resync_rate=%d verify=%q csums=%q", p.Rate, p.VerifyAlg, p.CsumsAlg)
		if h.Length == 148 {
			s += fmt.Sprintf(" plan_ahead=%d delay_target=%d fill_target=%d max_rate=%d",
				p.PlanAhead, p.DelayTarget, p.FillTarget, p.MaxRate)
		}
		return s
	case *protocol.Sizes:
		s := fmt.Sprintf("d_size=%d u_size=%d c_size=%d max_bio=%d order=%d dds_flags=%d",
			p.DiskSize, p.UserSize, p.CurrentSize, p.MaxBioBytes, p.QueueOrder, p.Flags)
		if q := p.Queue; h.Length == 56 {
			s += fmt.Sprintf(" qlim(phys=%d log=%d align=%d io_min=%d io_opt=%d discard=%d zeroes=%d wsame=%d pad=0)",
				q.PhysicalBlock, q.LogicalBlock, q.AlignmentOffset, q.MinIO, q.OptimalIO,
				number(q.Discard), number(q.DiscardZeroes), number(q.WriteSame))
		}
		return s
	}
	return ""
}

func id(b protocol.BlockID) string {
	switch b {
	case protocol.IDSyncer:
		return "ID_SYNCER"
	case protocol.IDInSync:
		return "IN_SYNC(4711)"
	case protocol.IDOutOfSync:
		return "OUT_OF_SYNC(4712)"
	}
	return fmt.Sprintf("%016x", uint64(b))
}

// barrier prints the opaque number, which a kernel writes in its little-endian order.
func barrier(n uint32) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return fmt.Sprintf("barrier=%x(le %d)", b, binary.LittleEndian.Uint32(b[:]))
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

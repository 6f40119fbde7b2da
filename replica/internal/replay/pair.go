// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// pair is one connection of a recording.
type pair struct {
	number int
	parse  [2]Framer // of what the core sends

	missing []packet // recorded, and not yet sent
	surplus []packet // sent, and not yet recorded

	// ids translates the node's identifiers of requests to the core's.
	ids    map[protocol.BlockID]protocol.BlockID
	pings  pings
	epochs *epochs // nil if barriers are played as they were recorded
	// torn says that the connection was lost, so that the node may have wanted to send more.
	torn bool
	last string
}

// packet is what a packet means, and the identifier of the request that it carries.
type packet struct {
	stream protocol.Stream
	text   string
	id     protocol.BlockID
}

func newPair(rec Recording, at, number int) *pair {
	p := &pair{number: number, ids: map[protocol.BlockID]protocol.BlockID{}}
	sent, acked := 0, 0
	for i := at; i < len(rec) && rec[i].Kind != Open; i++ {
		e := &rec[i]
		switch {
		case e.Pair != number:
		case e.Kind == Send && commandOf(e) == protocol.CmdPing:
			sent++
		case e.Kind == Receive && commandOf(e) == protocol.CmdPingAck:
			acked++
		}
	}
	p.pings = pings{ahead: acked, silent: sent > acked}
	return p
}

func commandOf(e *Entry) protocol.Command {
	v := versionOf(e.Packet)
	if n := protocol.HeaderSize(v); len(e.Packet) >= n {
		if h, err := protocol.DecodeHeader(e.Packet[:n], v); err == nil {
			return h.Command
		}
	}
	return 0
}

// sent parses what the core sends.
func (p *pair) sent(st protocol.Stream, data []byte, s protocol.Session) error {
	p.last = ""
	return p.parse[st].Feed(data, s.Version, func(h protocol.Header, whole []byte) error {
		front, rest := Split(whole)
		if h.Command == protocol.CmdPing {
			p.pings.sent()
		}
		if p.epochs.sent(h.Command, front) {
			return nil
		}
		pk, ok := meaning(st, h, front, int64(len(rest)), xxhash.Sum64(rest), &s)
		if !ok {
			return nil
		}
		p.last += pk.text + "; "
		for i, m := range p.missing {
			if m.stream == st && m.text == pk.text {
				p.ids[m.id] = pk.id
				p.missing = append(p.missing[:i], p.missing[i+1:]...)
				return nil
			}
		}
		p.surplus = append(p.surplus, pk)
		return nil
	})
}

// expect is what the node had sent.
func (p *pair) expect(e *Entry) error {
	version := versionOf(e.Packet)
	size := protocol.HeaderSize(version)
	if len(e.Packet) < size {
		return fmt.Errorf("%w: a packet of %d bytes", ErrRecording, len(e.Packet))
	}
	h, err := protocol.DecodeHeader(e.Packet[:size], version)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRecording, err)
	}
	s := &protocol.Session{Version: version}
	pk, ok := meaning(e.Stream, h, e.Packet[size:], e.Len, e.Hash, s)
	if !ok || p.epochs != nil && h.Command == protocol.CmdBarrier {
		return nil
	}
	for i, x := range p.surplus {
		if x.stream == pk.stream && x.text == pk.text {
			p.ids[pk.id] = x.id
			p.surplus = append(p.surplus[:i], p.surplus[i+1:]...)
			return nil
		}
	}
	p.missing = append(p.missing, pk)
	return nil
}

// versionOf tells the form of a header: 100 for 16 bytes, 0 for 8.
func versionOf(b []byte) protocol.Version {
	if len(b) >= 4 && binary.BigEndian.Uint32(b) == 0x8620ec20 {
		return 100
	}
	return 0
}

// meaning writes what matters of a packet that the node sends; false for one that
// depends on nothing but time.
func meaning(st protocol.Stream, h protocol.Header, front []byte, n int64, hash uint64, s *protocol.Session) (packet, bool) {
	pk := packet{stream: st, id: protocol.IDSyncer}
	name := fmt.Sprintf("%v v%d", h.Command, h.Volume)
	switch h.Command {
	case protocol.CmdPing, protocol.CmdUnplugRemote, protocol.CmdDelayProbe, protocol.CmdConnectionFeatures:
		return pk, false
	case protocol.CmdData, protocol.CmdTrim, protocol.CmdZeroes, protocol.CmdDataReply, protocol.CmdRSDataReply:
		if len(front) < 24 {
			break
		}
		pk.id = protocol.BlockID(binary.BigEndian.Uint64(front[8:]))
		// The rest is flags, size and digest.
		pk.text = fmt.Sprintf("%s sector %d %x, %d bytes of %x", name, binary.BigEndian.Uint64(front), front[20:], n, hash)
	case protocol.CmdDataRequest:
		if len(front) < 20 {
			break
		}
		pk.id = protocol.BlockID(binary.BigEndian.Uint64(front[8:]))
		pk.text = fmt.Sprintf("%s sector %d %x", name, binary.BigEndian.Uint64(front), front[16:20])
	case protocol.CmdRecvAck, protocol.CmdWriteAck, protocol.CmdRSWriteAck, protocol.CmdNegAck, protocol.CmdNegDReply,
		protocol.CmdNegRSDReply, protocol.CmdRSIsInSync, protocol.CmdOVResult:
		if len(front) < 20 {
			break
		}
		pk.text = fmt.Sprintf("%s sector %d id %x size %x", name, binary.BigEndian.Uint64(front), front[8:16], front[16:20])
	}
	if pk.text == "" {
		pk.text = fmt.Sprintf("%s %x, %d bytes of %x", name, front, n, hash)
	}
	return pk, true
}

// translate puts the core's identifier of a request into the answer to it.
func (p *pair) translate(h protocol.Header, body []byte) {
	switch h.Command {
	case protocol.CmdDataReply, protocol.CmdRecvAck, protocol.CmdWriteAck, protocol.CmdRSWriteAck, protocol.CmdNegAck, protocol.CmdNegDReply,
		protocol.CmdSuperseded, protocol.CmdRetryWrite:
	default:
		return
	}
	if len(body) < 16 {
		return
	}
	id := protocol.BlockID(binary.BigEndian.Uint64(body[8:]))
	if own, ok := p.ids[id]; ok && id != protocol.IDSyncer {
		binary.BigEndian.PutUint64(body[8:], uint64(own))
	}
	p.epochs.acked(protocol.BlockID(binary.BigEndian.Uint64(body[8:])))
}

// answered reports whether a packet is not to be delivered: the answer to a ping or a
// barrier that was given already, or is given later.
func (p *pair) answered(h protocol.Header) bool {
	switch h.Command {
	case protocol.CmdPingAck:
		return !p.pings.acked()
	case protocol.CmdBarrierAck:
		return p.epochs != nil
	}
	return false
}

func (p *pair) extra() string {
	var list []string
	for _, x := range p.surplus {
		list = append(list, x.text)
	}
	return strings.Join(list, "; ")
}

func (p *pair) describe() string {
	var b strings.Builder
	for i, m := range p.missing {
		if i == 8 {
			fmt.Fprintf(&b, "... and %d more\n", len(p.missing)-i)
			break
		}
		fmt.Fprintf(&b, "not sent: %s\n", m.text)
	}
	for i, x := range p.surplus {
		if i == 8 {
			fmt.Fprintf(&b, "... and %d more\n", len(p.surplus)-i)
			break
		}
		fmt.Fprintf(&b, "sent instead: %s\n", x.text)
	}
	return b.String()
}

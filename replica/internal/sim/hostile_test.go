// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// FuzzHostilePeer feeds whatever passes the header check, in any order, to a node in
// one of several states. It must not panic, and must still shut down in order.
//
// The input is a list of packets: one byte of where (stream, volume), two bytes of
// command, two bytes of length, and the body.
func FuzzHostilePeer(f *testing.F) {
	packet := func(st protocol.Stream, cmd protocol.Command, body []byte) []byte {
		b := []byte{byte(st)}
		b = binary.BigEndian.AppendUint16(b, uint16(cmd))
		b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
		return append(b, body...)
	}
	s := &protocol.Session{Version: 101, Features: 15}
	state := protocol.State{Role: protocol.Primary, Conn: protocol.WFBitMapS, Disk: protocol.UpToDate, Peer: protocol.Secondary, PeerDisk: protocol.Consistent}
	f.Add(uint8(0), packet(protocol.DataStream, protocol.CmdState, state.AppendTo(nil, s)))
	f.Add(uint8(1), packet(protocol.DataStream, protocol.CmdSyncUUID, make([]byte, 8)))
	f.Add(uint8(1), packet(protocol.DataStream, protocol.CmdBitmap, nil))
	f.Add(uint8(2), packet(protocol.MetaStream, protocol.CmdBarrierAck, make([]byte, 8)))
	f.Add(uint8(2), packet(protocol.MetaStream, protocol.CmdRSWriteAck, protocol.BlockAck{ID: protocol.IDSyncer, Size: 4096}.AppendTo(nil, s)))
	f.Add(uint8(3), packet(protocol.DataStream, protocol.CmdTrim, protocol.Data{Size: 4096, Flags: protocol.DPDiscard}.AppendTo(nil, s)))
	f.Add(uint8(3), packet(protocol.DataStream, protocol.CmdSizes, protocol.Sizes{DiskSize: 8, CurrentSize: 8}.AppendTo(nil, s)))
	f.Add(uint8(3), packet(protocol.DataStream, protocol.CmdConnStChgReq,
		protocol.StateRequest{}.WithConn(protocol.Disconnecting).WithDisk(protocol.Outdated).AppendTo(nil, s)))
	for cmd := protocol.Command(0); cmd < 0x40; cmd++ {
		f.Add(uint8(cmd), packet(protocol.DataStream, cmd, make([]byte, 24)))
		f.Add(uint8(cmd), packet(protocol.MetaStream, cmd, make([]byte, 24)))
	}
	f.Fuzz(func(t *testing.T, where uint8, in []byte) {
		opt := testOptions()
		opt.DiskBytes, opt.Trace = 256<<10, false
		c := start(t, opt)
		a := c.Nodes[0]
		hostileState(t, c, where)
		p := c.net.pair
		for len(in) >= 5 && a.core != nil && p != nil {
			st := protocol.Stream(in[0] & 1)
			h := protocol.Header{Command: protocol.Command(binary.BigEndian.Uint16(in[1:])),
				Volume: uint16(in[0] >> 1 & 1), Length: uint32(binary.BigEndian.Uint16(in[3:]))}
			in = in[5:]
			n := min(len(in), int(h.Length))
			body := append(append([]byte(nil), in[:n]...), make([]byte, int(h.Length)-n)...)
			in = in[n:]
			sess := a.core.Session(0)
			if sess.CheckHeader(st, h) != nil {
				continue
			}
			front := sess.PayloadOffset(h)
			var payload *core.Buffer
			if front < len(body) {
				payload = &core.Buffer{Data: body[front:]}
			}
			a.event(func() { a.core.Receive(0, p.gen[0], st, h, body[:front], payload) })
			c.failure = nil // the honest peer may complain about what it gets to see
			c.Run(3 * time.Millisecond)
		}
		c.SetLink(false)
		c.failure = nil
		c.Run(time.Second)
		c.failure = nil
		done := false
		a.Command(func(cmd *core.Command) { a.core.Shutdown(cmd) }, func(error) { done = true })
		if !c.Until("shutdown", 5*time.Minute, func() bool { return done }) {
			t.Fatal(c.Err())
		}
	})
}

// hostileState brings the pair to one of several states.
func hostileState(t *testing.T, c *Cluster, where uint8) {
	a, b := c.Nodes[0], c.Nodes[1]
	switch where % 5 {
	case 0: // both fresh
	case 1: // sync target
		b.mustDo(t, "promote", func(cmd *core.Command) { b.core.Promote(cmd, true) })
		c.Until("target", time.Minute, func() bool { s, _ := a.State(0); return s.Conn >= protocol.WFBitMapT })
	case 2: // Primary with writes in flight
		a.mustDo(t, "promote", func(cmd *core.Command) { a.core.Promote(cmd, true) })
		c.Until("synced", time.Minute, c.bothUpToDate)
		for i := range 8 {
			a.IO(&core.IO{Kind: core.IOWrite, Off: int64(i) * 4096, Len: 4096, Buf: make([]byte, 4096)}, func(error) {})
		}
	case 3: // Secondary
		b.mustDo(t, "promote", func(cmd *core.Command) { b.core.Promote(cmd, true) })
		c.Until("synced", time.Minute, c.bothUpToDate)
	case 4: // diskless Primary
		a.mustDo(t, "promote", func(cmd *core.Command) { a.core.Promote(cmd, true) })
		c.Until("synced", time.Minute, c.bothUpToDate)
		a.mustDo(t, "detach", func(cmd *core.Command) { a.core.Detach(cmd, 0, false) })
		a.IO(&core.IO{Kind: core.IORead, Len: 4096, Buf: make([]byte, 4096)}, func(error) {})
	}
}

// FuzzLoadDisk reads arbitrary metadata: it gives an image that can be attached, or
// an error.
func FuzzLoadDisk(f *testing.F) {
	d := NewDisk(256 << 10)
	if _, err := metadata.Create(d, metadata.V08, metadata.Internal(), d.Size(), metadata.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	tail := d.Bytes()[d.Size()-40960:]
	f.Add(bytes.Clone(tail))
	f.Fuzz(func(t *testing.T, tail []byte) {
		d := NewDisk(256 << 10)
		tail = tail[max(0, len(tail)-int(d.Size())):]
		d.current.write(tail, d.Size()-int64(len(tail)))
		img, err := core.LoadDisk(d, d.Size(), metadata.Internal(), d.Size(), core.DiskLimits{})
		if err != nil {
			return
		}
		opt := testOptions()
		opt.DiskBytes, opt.Trace = 256<<10, false
		c := New(1, opt)
		n := c.Nodes[0]
		n.disks[0], n.metas[0] = d, d
		n.Boot()
		c.Run(time.Second)
		_ = img
	})
}

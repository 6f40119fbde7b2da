// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"encoding/binary"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
	f.Add(uint8(3), packet(protocol.DataStream, protocol.CmdWSame,
		append(protocol.Data{Sector: 8, Seq: 1, Flags: protocol.DPWSame, Size: 4096}.AppendTo(nil, s), make([]byte, 512)...)))
	write := append(protocol.Data{Sector: 8, ID: 1, Seq: 1, Flags: protocol.DPSendWriteAck}.AppendTo(nil, s), make([]byte, 4096)...)
	block := protocol.BlockRequest{Sector: 8, ID: protocol.IDSyncer, Size: 4096}.AppendTo(nil, s)
	for i := range 2 * len(hostileStates) { // every state, with a bit of everything
		var all []byte
		for _, p := range []struct {
			cmd  protocol.Command
			body []byte
		}{
			{protocol.CmdConnectionFeatures, protocol.DefaultConnectionFeatures().AppendTo(nil, s)}, {protocol.CmdData, write},
			{protocol.CmdBarrier, protocol.Barrier{Number: 1}.AppendTo(nil, s)}, {protocol.CmdDataRequest, block}, {protocol.CmdRSDataRequest, block},
			{protocol.CmdOVRequest, block}, {protocol.CmdRSDataReply, write}, {protocol.CmdState, state.AppendTo(nil, s)},
			{protocol.CmdOutOfSync, protocol.BlockDescription{Sector: 8, Size: 4096}.AppendTo(nil, s)},
		} {
			all = append(all, packet(protocol.DataStream, p.cmd, p.body)...)
		}
		f.Add(uint8(i/len(hostileStates)*128+i%len(hostileStates)), all)
	}
	f.Fuzz(func(t *testing.T, where uint8, in []byte) {
		c := hostileState(t, int(where%128), where >= 128)
		a, p := c.Nodes[0], c.net.pair
		guard := newGuard(t, c)
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
			a.event(func() {
				guard.receive(func() { a.core.Receive(0, p.gen[0], st, h, body[:front], payload) }, h)
			})
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

// guard watches over what a hostile peer, or a hostile disk, may not bring about.
type guard struct {
	t      *testing.T
	sample []metrics.Sample
	size   [2]int64 // of the volume, by node: the largest so far, for what had begun when it shrank
}

// packetBytes is more memory than any single packet may cost: the largest request is
// of 1 MiB, and so is the largest P_WSAME.
const packetBytes = 8 << 20

// newGuard begins to watch: no operation leaves its area of the disk.
func newGuard(t *testing.T, c *Cluster) *guard {
	g := &guard{t: t, sample: []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}}
	for i, n := range c.Nodes {
		if n.core != nil {
			g.size[i] = int64(n.core.Size(0)) * sectorBytes
		}
	}
	c.onOp = func(n *Node, o *core.Op) {
		d := n.device(o)
		from, to := int64(0), d.Size()
		if n.disks[o.Volume] == n.metas[o.Volume] { // internal: data, then metadata
			if o.Meta {
				from = d.garble * sectorBytes
			} else {
				to = d.garble * sectorBytes
			}
		}
		if o.Kind != core.OpFlush && (o.Off < from || o.Len < 0 || o.Off > to || o.Len > to-o.Off) {
			t.Fatalf("node %d, volume %d: an operation of kind %d, metadata %v, at %d, %d bytes, leaves its area, %d to %d",
				n.idx, o.Volume, o.Kind, o.Meta, o.Off, o.Len, from, to)
		}
		g.size[n.idx] = max(g.size[n.idx], int64(n.core.Size(o.Volume))*sectorBytes)
		if size := g.size[n.idx]; !o.Meta && o.Kind != core.OpFlush && o.Off+o.Len > size {
			t.Fatalf("node %d, volume %d: an operation of kind %d at %d, %d bytes, leaves the volume of %d bytes", n.idx, o.Volume, o.Kind, o.Off, o.Len, size)
		}
	}
	return g
}

func (g *guard) allocated() uint64 {
	metrics.Read(g.sample)
	return g.sample[0].Value.Uint64()
}

// receive delivers one packet: it must not cost much memory.
func (g *guard) receive(deliver func(), h protocol.Header) {
	before := g.allocated()
	deliver()
	if cost := g.allocated() - before; cost > packetBytes {
		g.t.Fatalf("%v of %d bytes cost %d bytes of memory", h.Command, h.Length, cost)
	}
}

// hostileStates bring a pair to the states in which node 0 is to meet its hostile
// peer. Each says what it needs of the options, and how to get there.
var hostileStates = []struct {
	name string
	opt  func(o *Options)
	do   func(s *hostileScene)
}{
	{"fresh", nil, func(*hostileScene) {}},
	{"SyncTarget", slowly, func(s *hostileScene) { s.force(s.b); s.conn(protocol.SyncTarget) }},
	{"Primary that writes", nil, func(s *hostileScene) { s.force(s.a); s.synced(); s.write(8) }},
	{"Secondary", nil, func(s *hostileScene) { s.force(s.b); s.synced() }},
	{"diskless Primary", nil, func(s *hostileScene) { s.force(s.a); s.synced(); s.detach(s.a); s.read() }},
	{"SyncSource", slowly, func(s *hostileScene) { s.force(s.a); s.conn(protocol.SyncSource) }},
	{"VerifyS", nil, func(s *hostileScene) { s.force(s.a); s.synced(); s.verify(s.a); s.conn(protocol.VerifyS) }},
	{"VerifyT", nil, func(s *hostileScene) { s.force(s.a); s.synced(); s.verify(s.b); s.conn(protocol.VerifyT) }},
	{"Ahead", pullsAhead, func(s *hostileScene) { s.force(s.a); s.synced(); s.write(60); s.conn(protocol.Ahead) }},
	{"Behind", pullsAhead, func(s *hostileScene) {
		s.force(s.b)
		s.synced()
		s.a, s.b = s.b, s.a
		s.write(60)
		s.conn(protocol.Behind)
	}},
	{"two Primaries", func(o *Options) { o.Net.AllowTwoPrimary = true }, func(s *hostileScene) {
		s.force(s.a)
		s.synced()
		s.b.mustDo(s.t, "promote", func(cmd *core.Command) { s.b.core.Promote(cmd, false) })
		s.write(8)
	}},
	{"features", nil, func(s *hostileScene) { s.again(func() bool { return s.net.pair != nil && s.net.pair.up[0] }) }},
	{"authentication", func(o *Options) { o.Net.CRAMAlg, o.Net.Secret = "sha256", "sekrit" }, func(s *hostileScene) {
		s.again(func() bool { return s.a.core.Session(0).Version > 0 })
	}},
	{"WFReportParams", nil, func(s *hostileScene) {
		s.force(s.a)
		s.synced()
		s.again(func() bool { return s.is(protocol.WFReportParams) })
	}},
	{"WFBitMapS", nil, func(s *hostileScene) { s.force(s.a); s.synced(); s.part(s.a); s.conn(protocol.WFBitMapS) }},
	{"WFBitMapT", nil, func(s *hostileScene) { s.force(s.b); s.synced(); s.part(s.b); s.conn(protocol.WFBitMapT) }},
	{"WFSyncUUID", nil, func(s *hostileScene) {
		s.force(s.b)
		s.synced()
		s.ask(s.a, func(cmd *core.Command) { s.a.core.Invalidate(cmd, 0) })
		s.conn(protocol.WFSyncUUID)
	}},
	{"PausedSyncT", slowly, func(s *hostileScene) {
		s.force(s.b)
		s.conn(protocol.SyncTarget)
		s.pause()
		s.conn(protocol.PausedSyncT)
	}},
	{"PausedSyncS", slowly, func(s *hostileScene) {
		s.force(s.a)
		s.conn(protocol.SyncSource)
		s.pause()
		s.conn(protocol.PausedSyncS)
	}},
	{"diskless Secondary", nil, func(s *hostileScene) { s.force(s.b); s.synced(); s.detach(s.a) }},
	{"only copy of a diskless Primary", nil, func(s *hostileScene) { s.force(s.b); s.synced(); s.detach(s.b) }},
	{"an old peer", func(o *Options) { o.Net.MaxVersion = 88 }, func(s *hostileScene) { s.force(s.a); s.synced(); s.write(8) }},
}

func slowly(o *Options) { o.Volume.ResyncRate = 64 }

func pullsAhead(o *Options) {
	o.Net.Protocol, o.Net.OnCongestion, o.Net.CongestionFill = protocol.ProtocolA, core.CongestionPullAhead, 64
	o.Volume.ResyncRate = 64
}

// hostileScene is a pair on its way into a state.
type hostileScene struct {
	*Cluster
	t    *testing.T
	a, b *Node
}

func (s *hostileScene) force(n *Node) {
	n.mustDo(s.t, "promote", func(cmd *core.Command) { n.core.Promote(cmd, true) })
}

func (s *hostileScene) synced() { s.Until("synced", time.Minute, s.bothUpToDate) }

func (s *hostileScene) is(conn protocol.ConnState) bool {
	st, _ := s.Nodes[0].State(0)
	return st.Conn == conn
}

func (s *hostileScene) conn(conn protocol.ConnState) {
	s.Until(conn.String(), time.Minute, func() bool { return s.is(conn) })
}

func (s *hostileScene) ask(n *Node, run func(*core.Command)) { n.Command(run, func(error) {}) }

func (s *hostileScene) detach(n *Node) {
	n.mustDo(s.t, "detach", func(cmd *core.Command) { n.core.Detach(cmd, 0, false) })
}

func (s *hostileScene) pause() {
	s.ask(s.a, func(cmd *core.Command) { s.a.core.PauseSync(cmd, 0, true) })
}

func (s *hostileScene) verify(n *Node) {
	s.ask(n, func(cmd *core.Command) { n.core.Verify(cmd, 0, core.VerifyOptions{}) })
}

func (s *hostileScene) write(blocks int) {
	for i := range blocks {
		s.a.IO(&core.IO{Kind: core.IOWrite, Off: int64(i) * 4096, Len: 4096, Buf: bytes.Repeat([]byte{byte(i)}, 4096)}, func(error) {})
	}
}

func (s *hostileScene) read() {
	s.a.IO(&core.IO{Kind: core.IORead, Len: 4096, Buf: make([]byte, 4096)}, func(error) {})
}

// part parts the two; n writes before they meet again.
func (s *hostileScene) part(n *Node) {
	s.SetLink(false)
	s.Until("lost", time.Minute, func() bool { return s.is(protocol.WFConnection) })
	s.a, s.b = n, s.Nodes[1-n.idx]
	s.write(8)
	s.Run(100 * time.Millisecond)
	s.SetLink(true)
}

// again lets the two meet anew, until cond; from then on node 0 reads nothing of the
// honest peer.
func (s *hostileScene) again(cond func() bool) {
	s.net.cutNow(errCut)
	s.Until("lost", time.Minute, func() bool { return s.is(protocol.WFConnection) })
	s.Until("met", time.Minute, cond)
	s.net.stall(0, true)
}

// hostileState brings a pair to one of the states. With deaf, node 0 does not read what
// its honest peer sends from then on.
func hostileState(t *testing.T, where int, deaf bool, more ...func(*Options)) *Cluster {
	h := hostileStates[where%len(hostileStates)]
	opt := testOptions()
	opt.DiskBytes, opt.Trace = 256<<10, false
	opt.Net.VerifyAlg, opt.Net.CSumsAlg = "crc32c", "xxhash64"
	if h.opt != nil {
		h.opt(&opt)
	}
	for _, f := range more {
		f(&opt)
	}
	c := start(t, opt)
	s := &hostileScene{Cluster: c, t: t, a: c.Nodes[0], b: c.Nodes[1]}
	h.do(s)
	must(t, c)
	if deaf {
		c.net.stall(0, true)
	}
	return c
}

// TestHostileStates: each state is what its name says.
func TestHostileStates(t *testing.T) {
	for i, h := range hostileStates {
		t.Run(h.name, func(t *testing.T) {
			c := hostileState(t, i, false)
			require.NotNil(t, c.net.pair)
			st, _ := c.Nodes[0].State(0)
			t.Logf("%v", st)
			for conn := protocol.StandAlone; conn <= protocol.Behind; conn++ {
				if conn.String() == h.name {
					require.Equal(t, conn, st.Conn)
				}
			}
		})
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
		d.garble = int64(img.Layout.UsableWith(d.Size()))
		n.disks[0], n.metas[0] = d, d
		newGuard(t, c)
		n.Boot()
		c.Run(time.Second)
		n.Command(func(cmd *core.Command) { n.core.Promote(cmd, true) }, func(error) {})
		c.Run(time.Second)
		for off := range int64(4) {
			n.IO(&core.IO{Kind: core.IOWrite, Off: off << 12, Len: 4096, Buf: make([]byte, 4096)}, func(error) {})
		}
		c.Run(time.Second)
		done := false
		n.Command(func(cmd *core.Command) { n.core.Shutdown(cmd) }, func(error) { done = true })
		if !c.Until("shutdown", 5*time.Minute, func() bool { return done }) {
			t.Fatal(c.Err())
		}
	})
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// dual is one of two Primaries, whose peer is the test.
type dual struct {
	t    *testing.T
	c    *Core
	v    *volume
	pd   *peerDevice
	seq  uint32 // of the peer
	held []*Op
	done []*IO
	out  []sentPacket
}

type sentPacket struct {
	cmd  protocol.Command
	body []byte
}

func newDual(t *testing.T, resolver bool, version protocol.Version) *dual {
	c, err := New(Config{Volumes: []VolumeConfig{{}}, Peers: []PeerConfig{{}}, Rand: func() uint64 { return 1 },
		Net: NetOptions{AllowTwoPrimary: true, KoCount: 7}})
	require.NoError(t, err)
	v, p := c.vols[0], c.peers[0]
	pd := v.pds[0]
	v.role, v.disk, v.size = protocol.Primary, protocol.UpToDate, 8192
	pd.role, pd.disk, pd.conn = protocol.Primary, protocol.UpToDate, protocol.Connected
	pd.bm = bitmap.New(1024)
	p.phase, p.gen, p.resolver, p.gotProto = phaseUp, 1, resolver, true
	p.session.Version, p.session.Features = version, protocol.OfferableFeatures(version)
	c.Advance(time.Second)
	return &dual{t: t, c: c, v: v, pd: pd}
}

// effects collects what the core wants.
func (d *dual) effects() {
	var e Effects
	d.c.Take(&e)
	d.held = append(d.held, e.Ops...)
	d.done = append(d.done, e.Done...)
	hs := protocol.HeaderSize(d.pd.p.session.Version)
	for _, st := range []protocol.Stream{protocol.DataStream, protocol.MetaStream} {
		o := d.c.TakeOut(0, st, &Out{})
		if o == nil {
			continue
		}
		var b []byte
		for _, part := range o.Buffers(nil) {
			b = append(b, part...)
		}
		for len(b) > 0 {
			h, err := protocol.DecodeHeader(b[:hs], d.pd.p.session.Version)
			require.NoError(d.t, err)
			d.out = append(d.out, sentPacket{h.Command, b[hs : hs+int(h.Length)]})
			b = b[hs+int(h.Length):]
		}
		d.c.OutDone(0, o)
	}
}

// sent returns and forgets what was sent, without P_BARRIER.
func (d *dual) sent() (cmds []protocol.Command) {
	d.effects()
	for _, p := range d.out {
		if p.cmd != protocol.CmdBarrier {
			cmds = append(cmds, p.cmd)
		}
	}
	d.out = nil
	return cmds
}

// own submits a write of sectors [from, to), and returns the id and barrier that it was sent with.
func (d *dual) own(from, to int64) *IO {
	io := &IO{Kind: IOWrite, Off: from * 512, Len: (to - from) * 512, Buf: make([]byte, (to-from)*512)}
	d.c.Submit(io)
	d.effects()
	return io
}

// ops returns and forgets the disk operations.
func (d *dual) ops() []*Op {
	d.effects()
	o := d.held
	d.held = nil
	return o
}

// finishAll lets the disk do all that the core wants.
func (d *dual) finishAll() {
	for ops := d.ops(); len(ops) > 0; ops = d.ops() {
		for _, o := range ops {
			d.finish(o)
		}
	}
}

func (d *dual) finish(o *Op) {
	d.c.OpDone(o)
	d.effects()
}

// write is a P_DATA of the peer.
func (d *dual) write(from, to uint64) {
	d.seq++
	body := protocol.Data{Sector: from, ID: 77, Seq: d.seq, Flags: protocol.DPSendWriteAck.Usable(d.pd.p.session.Version)}.AppendTo(nil, &d.pd.p.session)
	d.c.Receive(0, 1, protocol.DataStream, protocol.Header{Command: protocol.CmdData, Length: uint32(24 + (to-from)*512)}, body,
		&Buffer{Data: make([]byte, (to-from)*512)})
	d.effects()
}

func (d *dual) ack(cmd protocol.Command, r *request) {
	d.seq++
	d.ackNumbered(cmd, r, d.seq)
}

func (d *dual) ackNumbered(cmd protocol.Command, r *request, seq uint32) {
	body := protocol.BlockAck{Sector: r.sector, ID: r.id, Size: r.size, Seq: seq}.AppendTo(nil, &d.pd.p.session)
	d.c.Receive(0, 1, protocol.MetaStream, protocol.Header{Command: cmd, Length: 24}, body, nil)
	d.effects()
}

// barrier is the peer's P_BARRIER; barrierAck answers one of ours.
func (d *dual) barrier(number uint32) {
	body := protocol.Barrier{Number: number}.AppendTo(nil, &d.pd.p.session)
	d.c.Receive(0, 1, protocol.DataStream, protocol.Header{Command: protocol.CmdBarrier, Length: 8}, body, nil)
	d.effects()
}

func (d *dual) barrierAck(number, count uint32) {
	body := protocol.BarrierAck{Number: number, SetSize: count}.AppendTo(nil, &d.pd.p.session)
	d.c.Receive(0, 1, protocol.MetaStream, protocol.Header{Command: protocol.CmdBarrierAck, Length: 8}, body, nil)
	d.effects()
}

// completed asserts that io, and nothing else, was answered.
func (d *dual) completed(io *IO) {
	d.t.Helper()
	d.effects()
	require.True(d.t, len(d.done) == 1 && d.done[0] == io, "%d requests were answered", len(d.done))
}

func (d *dual) connected() bool { return d.pd.p.phase == phaseUp }

// TestResolverDecides: the resolver's own write 8..16 is under way, and the peer's
// comes.
func TestResolverDecides(t *testing.T) {
	cases := []struct {
		name     string
		from, to uint64
		version  protocol.Version
		answer   protocol.Command // 0: it is written
	}{
		{"the same blocks", 8, 16, 101, protocol.CmdSuperseded},
		{"inside", 10, 12, 101, protocol.CmdSuperseded},
		{"at its end", 15, 16, 101, protocol.CmdSuperseded},
		{"reaches out in front", 7, 9, 101, protocol.CmdRetryWrite},
		{"reaches out behind", 15, 17, 101, protocol.CmdRetryWrite},
		{"contains it", 0, 64, 101, protocol.CmdRetryWrite},
		{"old version", 0, 64, 97, protocol.CmdSuperseded},
		{"in front of it", 0, 8, 101, 0},
		{"behind it", 16, 24, 101, 0},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			d := newDual(t, true, tc.version)
			d.own(8, 16)
			require.Len(t, d.ops(), 1)
			require.Equal(t, []protocol.Command{protocol.CmdData}, d.sent())
			d.write(tc.from, tc.to)
			ops := d.ops()
			if tc.answer == 0 {
				require.Len(t, ops, 1)
				d.finish(ops[0])
				require.Equal(t, []protocol.Command{protocol.CmdWriteAck}, d.sent())
				return
			}
			require.Empty(t, ops, "it must not reach the disk")
			require.Equal(t, []protocol.Command{tc.answer}, d.sent())
			require.Zero(t, d.pd.unacked)
			d.barrier(1)
			require.Empty(t, d.sent(), "no ack for an epoch that lost all its writes")
			d.write(100, 101) // the next epoch is acknowledged with what it holds
			d.finish(d.ops()[0])
			d.barrier(2)
			require.Equal(t, []protocol.Command{protocol.CmdWriteAck, protocol.CmdBarrierAck}, d.sent())
		})
	}
}

// TestLaterWriteIsNoRival: the peer acknowledged our write and then wrote the same
// blocks. Its ack is slower than its write.
func TestLaterWriteIsNoRival(t *testing.T) {
	d := newDual(t, true, 101)
	io := d.own(8, 16)
	r := io.req
	local := d.ops()
	d.seq = 1 // the ack, on its way
	d.write(8, 16)
	require.Equal(t, []protocol.Command{protocol.CmdData}, d.sent(), "nothing may be decided before the ack is here")
	d.write(100, 108) // what comes later waits, too
	require.Empty(t, d.ops())
	d.ackNumbered(protocol.CmdWriteAck, r, 1)
	ops := d.ops()
	require.Len(t, ops, 1, "the own write is not on the disk yet")
	require.EqualValues(t, 100*512, ops[0].Off)
	d.finish(local[0])
	d.completed(io)
	later := d.ops()
	require.Len(t, later, 1)
	require.EqualValues(t, 8*512, later[0].Off)

	d = newDual(t, true, 101)
	d.own(8, 16)
	d.seq = 1
	d.write(8, 16)
	at, ok := d.c.Deadline()
	require.True(t, ok)
	require.Equal(t, time.Second+d.c.cfg.Net.PingTimeout, at)
	d.c.Advance(at)
	d.c.Tick()
	require.False(t, d.connected(), "the ack never came")
}

// TestOtherNodeWaits: the node that does not decide holds the resolver's write until
// its own is on its disk and decided about.
func TestOtherNodeWaits(t *testing.T) {
	for _, tc := range []struct {
		name    string
		version protocol.Version
		answer  protocol.Command
		again   bool
	}{
		{"written", 101, protocol.CmdWriteAck, false},
		{"superseded", 101, protocol.CmdSuperseded, false},
		{"retry", 101, protocol.CmdRetryWrite, true},
		{"superseded, old version", 97, protocol.CmdSuperseded, true},
	} {
		for _, ackFirst := range []bool{false, true} {
			t.Run(tc.name, func(t *testing.T) {
				d := newDual(t, false, tc.version)
				io := d.own(8, 16)
				r := io.req
				local := d.ops()
				d.sent()
				d.write(10, 20)
				require.Empty(t, d.ops())
				if ackFirst {
					d.ack(tc.answer, r)
					require.Empty(t, d.ops())
					d.finish(local[0])
				} else {
					d.finish(local[0])
					require.Empty(t, d.ops())
					d.ack(tc.answer, r)
				}
				if !tc.again {
					d.completed(io)
					require.NoError(t, io.Err)
				} else {
					require.Zero(t, len(d.done))
				}
				ops := d.ops()
				require.Len(t, ops, 1)
				require.EqualValues(t, 10*512, ops[0].Off, "the resolver's write comes now")
				require.NotContains(t, d.sent(), protocol.CmdData)
				d.finish(ops[0])
				require.Equal(t, []protocol.Command{protocol.CmdWriteAck}, firstOf(d.sent(), protocol.CmdWriteAck))
				if !tc.again {
					return
				}
				again := d.ops()
				require.Len(t, again, 1, "and then the own one, once more")
				require.EqualValues(t, 8*512, again[0].Off)
				d.finish(again[0])
				d.ack(protocol.CmdWriteAck, r)
				d.completed(io)
				require.NoError(t, io.Err)
			})
		}
	}
}

func firstOf(cmds []protocol.Command, want protocol.Command) []protocol.Command {
	for _, c := range cmds {
		if c == want {
			return []protocol.Command{c}
		}
	}
	return nil
}

// TestEpochsWithConflicts: a kernel does not acknowledge an epoch in which it decided.
func TestEpochsWithConflicts(t *testing.T) {
	t.Run("nothing left", func(t *testing.T) {
		d := newDual(t, false, 101)
		io := d.own(8, 16)
		d.finish(d.ops()[0])
		d.ack(protocol.CmdSuperseded, io.req)
		d.completed(io)
		require.Nil(t, d.pd.p.tx.first)
		require.Empty(t, d.c.requests.slots[0])
	})
	t.Run("a later ack covers it", func(t *testing.T) {
		d := newDual(t, false, 101)
		lost, kept := d.own(8, 16), d.own(100, 108)
		keptReq := kept.req
		for _, o := range d.ops() {
			d.finish(o)
		}
		d.ack(protocol.CmdSuperseded, lost.req)
		next := d.own(200, 208)
		nextReq := next.req
		d.finish(d.ops()[0])
		d.ack(protocol.CmdWriteAck, keptReq)
		d.ack(protocol.CmdWriteAck, nextReq)
		require.NotNil(t, keptReq.epoch)
		require.NotEqual(t, keptReq.epoch, nextReq.epoch)
		d.barrierAck(nextReq.epoch.number, 1)
		require.Nil(t, d.pd.p.tx.first)
		require.True(t, d.connected())
	})
	t.Run("an ack that does not wait for its writes", func(t *testing.T) {
		d := newDual(t, false, 101)
		lost := d.own(8, 16)
		d.own(100, 108)
		d.ack(protocol.CmdSuperseded, lost.req)
		next := d.own(200, 208)
		d.barrierAck(next.req.epoch.number, 1)
		require.False(t, d.connected())
	})
	t.Run("an empty write covers it", func(t *testing.T) {
		d := newDual(t, false, 101)
		lost, kept := d.own(8, 16), d.own(100, 108)
		keptReq := kept.req
		for _, o := range d.ops() {
			d.finish(o)
		}
		d.ack(protocol.CmdSuperseded, lost.req)
		d.sent()
		d.ack(protocol.CmdWriteAck, keptReq)
		d.effects()
		require.Equal(t, protocol.CmdData, d.out[0].cmd)
		require.Len(t, d.out[0].body, 24, "no data")
		require.Equal(t, protocol.CmdBarrier, d.out[1].cmd)
		cover := d.pd.p.tx.last.head
		d.ack(protocol.CmdWriteAck, cover)
		d.barrierAck(d.pd.p.tx.last.number, 1)
		require.Nil(t, d.pd.p.tx.first)
		require.True(t, d.connected())
	})
}

// TestDecisionsOutOfPlace: nobody decides about writes but the resolver, and only
// where two Primaries are allowed.
func TestDecisionsOutOfPlace(t *testing.T) {
	for name, change := range map[string]func(*dual){
		"to the resolver": func(d *dual) { d.pd.p.resolver = true },
		"one Primary":     func(d *dual) { d.c.cfg.Net.AllowTwoPrimary = false },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDual(t, false, 101)
			change(d)
			io := d.own(8, 16)
			d.ack(protocol.CmdSuperseded, io.req)
			require.False(t, d.connected())
		})
	}
}

// TestReadsTakeTurns: with two Primaries a read does not see what the other node may
// not see yet, and nothing is written while it reads.
func TestReadsTakeTurns(t *testing.T) {
	d := newDual(t, false, 101)
	w := d.own(8, 16)
	req := w.req
	d.finish(d.ops()[0])
	read := &IO{Kind: IORead, Off: 8 * 512, Len: 512, Buf: make([]byte, 512)}
	d.c.Submit(read)
	require.Empty(t, d.ops(), "the write is on this disk only")
	d.ack(protocol.CmdWriteAck, req)
	ops := d.ops()
	require.Len(t, ops, 1)
	require.Equal(t, OpRead, ops[0].Kind)
	d.write(8, 9)
	require.Empty(t, d.ops(), "the other node's write waits for the read")
	d.own(8, 9)
	require.Empty(t, d.ops())
	d.finish(ops[0])
	require.Len(t, d.ops(), 1, "then the peer's write")
}

// TestWriteToIncompleteDisk: a write that only the disk of a sync target has got is
// not done: the next resync overwrites it.
func TestWriteToIncompleteDisk(t *testing.T) {
	d := newDual(t, false, 101)
	d.v.disk, d.pd.conn = protocol.Inconsistent, protocol.SyncTarget
	io := d.own(8, 16)
	d.finish(d.ops()[0])
	d.c.Lost(0, 1, protocol.DataStream, errSequence, false)
	for _, o := range d.ops() { // the superblock
		d.finish(o)
	}
	d.completed(io)
	require.ErrorIs(t, io.Err, ErrConnectionLost)
}

// TestLateResyncAcks: the acks of a resync that was cut off clear nothing, and do not
// end the connection; one that nobody waits for does.
func TestLateResyncAcks(t *testing.T) {
	d := newDual(t, false, 101)
	d.pd.setOutOfSync(8, 4096)
	d.pd.rsPending = 1
	d.pd.stopResync()
	d.ack(protocol.CmdRSWriteAck, &request{sector: 8, size: 4096, id: protocol.IDSyncer})
	require.True(t, d.connected())
	require.EqualValues(t, 1, d.pd.bm.Count())
	d.ack(protocol.CmdRSWriteAck, &request{sector: 8, size: 4096, id: protocol.IDSyncer})
	require.False(t, d.connected())
}

// TestForbidTwoPrimaries: not while there are two.
func TestForbidTwoPrimaries(t *testing.T) {
	d := newDual(t, false, 101)
	n := d.c.Net()
	n.AllowTwoPrimary = false
	cmd := &Command{}
	d.c.SetNet(cmd, n)
	require.ErrorIs(t, cmd.Err, ErrRefused)
	require.True(t, d.c.Net().AllowTwoPrimary)
	d.c.adoptTwoPrimaries(false)
	require.True(t, d.c.Net().AllowTwoPrimary)
	d.pd.role = protocol.Secondary
	cmd = &Command{}
	d.c.SetNet(cmd, n)
	require.NoError(t, cmd.Err)
	require.False(t, d.c.Net().AllowTwoPrimary)
	require.Equal(t, []protocol.Command{protocol.CmdProtocolUpdate, protocol.CmdSyncParam89}, d.sent())

	n.AllowTwoPrimary, n.Protocol = true, protocol.ProtocolB
	cmd = &Command{}
	d.c.SetNet(cmd, n)
	require.ErrorIs(t, cmd.Err, ErrConfig)
}

// TestPromoteAfterDemotion: the peer has demoted itself, and its P_STATE is slower than
// its answer to the ping. It is asked; with its consent the P_STATE is waited for.
func TestPromoteAfterDemotion(t *testing.T) {
	setup := func() (*dual, *Command) {
		d := newDual(t, false, 101)
		d.c.cfg.Net.AllowTwoPrimary = false
		d.v.role = protocol.Secondary
		cmd := &Command{}
		d.c.Promote(cmd, false)
		require.Equal(t, []protocol.Command{protocol.CmdPing}, d.sent())
		d.c.Receive(0, 1, protocol.MetaStream, protocol.Header{Command: protocol.CmdPingAck}, nil, nil)
		require.Equal(t, []protocol.Command{protocol.CmdStateChgReq}, d.sent())
		return d, cmd
	}
	reply := func(d *dual, code protocol.Code) {
		body := protocol.StateReply{Code: code}.AppendTo(nil, &d.pd.p.session)
		d.c.Receive(0, 1, protocol.MetaStream, protocol.Header{Command: protocol.CmdStateChgReply, Length: 4}, body, nil)
		d.finishAll()
	}
	d, cmd := setup()
	reply(d, protocol.CodeSuccess)
	require.False(t, cmd.finished)
	require.Empty(t, d.sent())
	s := protocol.State{Role: protocol.Secondary, Peer: protocol.Secondary, Conn: protocol.Connected, Disk: protocol.UpToDate, PeerDisk: protocol.UpToDate}
	d.c.Receive(0, 1, protocol.DataStream, protocol.Header{Command: protocol.CmdState, Length: 4}, s.AppendTo(nil, &d.pd.p.session), nil)
	require.Equal(t, []protocol.Command{protocol.CmdStateChgReq}, d.sent())
	reply(d, protocol.CodeNothingToDo)
	require.Equal(t, protocol.Primary, d.v.role)
	require.True(t, cmd.finished)
	require.NoError(t, cmd.Err)

	d, cmd = setup()
	reply(d, protocol.CodeTwoPrimaries)
	require.ErrorIs(t, cmd.Err, protocol.CodeTwoPrimaries)
	require.Equal(t, protocol.Secondary, d.v.role)

	d, cmd = setup()
	reply(d, protocol.CodeSuccess)
	d.c.Lost(0, 1, protocol.DataStream, errSequence, false) // and nobody tells any more
	d.c.Closed(0, 1)
	d.finishAll()
	require.True(t, cmd.finished, "%v", d.pd.state())
}

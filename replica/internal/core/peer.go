// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// phase is how far a connection has come below its state (spec: wire 8.1).
type phase uint8

const (
	phaseNone       phase = iota // no pair, none wanted
	phaseConnecting              // NetConnect is out
	phaseFeatures                // pair exists, features sent
	phaseAuth                    // challenge sent
	phaseUp                      // P_PROTOCOL and parameters sent
	phaseClosing                 // NetClose is out
)

// peer is the other node: one connection at a time, shared by all volumes.
type peer struct {
	c   *Core
	idx int
	pds []*peerDevice
	out [2]*Out

	phase    phase
	gen      uint64 // of the pair; what carries an older one is ignored
	resolver bool   // this node accepted the meta connection: it decides ties
	session  protocol.Session
	protocol protocol.ReplicationProtocol // in force; a peer's P_PROTOCOL_UPDATE changes it
	digest   protocol.Digest              // of what we send
	peerAlg  protocol.Digest              // of what the peer sends
	// In force for verify and checksum resync: configured, or adopted from the peer.
	verifyAlg, csumsAlg protocol.Digest
	gotProto            bool // the peer's P_PROTOCOL has been read
	dryRun              bool // a tentative connect, here or there
	opt                 ConnectOptions
	ownNonce            []byte
	wantConn            bool // reconnect after a loss
	refusing            bool // the pair is being closed by refuse
	lateLoss            bool // meta is gone, what is left on data is still read

	lastMeta, lastData time.Duration // when something was last received
	pingSent           time.Duration
	pinging            bool
	pingWaiters        []pingWaiter
	pings, pingAcks    uint64 // of this connection
	pingTimer          timer
	handshakeTimer     timer
	retryTimer         timer
	acksTimer          timer // a write waits for acks that were sent before it
	shakyUntilUp       bool  // the last attempt failed inside the handshake

	met     uint64 // how often the nodes have met
	meeting bool   // they part only to meet again: no reason to fence
	fencers []func(ok bool)

	clusterReqs []*clusterRequest // the first one is out

	tx txEpochs
	rx rxEpochs

	peerReqs   int // requests of the peer that are being served
	readQueue  []*peerReq
	givingUp   bool // the connection is about to be left: congested
	closedWait bool // the pair is closed, peerReqs are not yet done
	cleaning   bool // its disks have yet to hold the generations that the next one will tell
}

func newPeer(c *Core, idx int) *peer {
	p := &peer{c: c, idx: idx, protocol: c.cfg.Net.Protocol}
	p.out[0], p.out[1] = &Out{}, &Out{}
	p.digest, _ = protocol.LookupDigest(c.cfg.Net.IntegrityAlg)
	return p
}

func (p *peer) version() protocol.Version { return p.session.Version }

// conn is the state of the connection: that of its volumes while they agree, and
// the lowest one otherwise.
func (p *peer) conn() protocol.ConnState {
	if len(p.pds) == 0 {
		return protocol.StandAlone
	}
	s := p.pds[0].conn
	for _, pd := range p.pds[1:] {
		s = min(s, pd.conn)
	}
	return s
}

// Session returns what the reader of a stream needs to read the next packet:
// the header form, length checks, and where the payload begins.
func (c *Core) Session(peer int) protocol.Session { return c.peers[peer].session }

// alive reports whether packets can be sent.
func (p *peer) alive() bool {
	return p.phase == phaseFeatures || p.phase == phaseAuth || p.phase == phaseUp
}

// handshaking reports of a connection that is alive that the nodes do not know yet what
// each other has.
func (p *peer) handshaking() bool {
	return p.phase != phaseUp || p.conn() <= protocol.WFReportParams
}

// send appends one packet without payload to a stream.
func send[B protocol.Body](p *peer, st protocol.Stream, cmd protocol.Command, volume uint16, body B) {
	if !p.alive() {
		return
	}
	o := p.out[st]
	from := len(o.arena)
	o.arena = protocol.AppendPacket(o.arena, &p.session, cmd, volume, body, 0)
	o.commit(from)
}

// sendData appends a packet with payload, and a digest in front of it if this
// node has data-integrity-alg configured.
func (p *peer) sendData(cmd protocol.Command, volume uint16, d protocol.Data, payload []byte, req *request, buf *Buffer) {
	if !p.alive() {
		buf.Release()
		return
	}
	o := p.out[protocol.DataStream]
	from := len(o.arena)
	n := p.digest.Size()
	o.arena = protocol.AppendPacket(o.arena, &p.session, cmd, volume, d, n+len(payload))
	if n > 0 {
		o.arena = p.digest.Sum(o.arena, payload)
	}
	o.commit(from)
	o.attach(payload, req, buf)
}

// nextSeq counts the writes and block acks of a volume (spec: wire 3.2).
func (pd *peerDevice) nextSeq() uint32 {
	pd.seq++
	return pd.seq
}

// ack answers one of the peer's block requests on the meta stream.
func (pd *peerDevice) ack(cmd protocol.Command, sector uint64, id protocol.BlockID, size uint32) {
	send(pd.p, protocol.MetaStream, cmd, pd.v.cfg.Number,
		protocol.BlockAck{Sector: sector, ID: id, Size: size, Seq: pd.nextSeq()})
}

// ping asks for a sign of life and calls fn when the answer is here: everything
// that the peer acknowledged before has then been received.
func (p *peer) ping(fn func(error)) {
	if p.phase != phaseUp {
		fn(ErrConnectionLost)
		return
	}
	p.sendPing()
	p.pingWaiters = append(p.pingWaiters, pingWaiter{p.pings, fn})
}

// pingWaiter waits for the answer to one ping. That to an earlier one may have been
// sent before the peer had what this one is to follow.
type pingWaiter struct {
	number uint64
	fn     func(error)
}

func (p *peer) sendPing() {
	if !p.pinging {
		p.pinging, p.pingSent = true, p.c.now
		p.pingTimer.arm(p.c.now + p.c.cfg.Net.PingTimeout)
	}
	p.pings++
	send(p, protocol.MetaStream, protocol.CmdPing, 0, protocol.Empty{})
}

// answerPing answers at once. A sync target pings when it has every block, and on the
// answer takes over this node's generation (see metadata.Feed).
func (p *peer) answerPing() {
	for _, pd := range p.pds {
		lacking := pd.lacking()
		if pd.conn == protocol.Ahead || pd.resync.unheard {
			lacking = 0 // there are marks of what was written since, or has failed here; the target has not heard of them
		}
		pd.feed = pd.feed.PingReceived(lacking)
	}
	if !p.unread() {
		send(p, protocol.MetaStream, protocol.CmdPingAck, 0, protocol.Empty{})
	}
}

func (p *peer) pingAck() {
	p.pinging = false
	p.pingTimer.arm(p.c.now + p.c.cfg.Net.PingInterval)
	p.pingAcks = min(p.pingAcks+1, p.pings)
	for len(p.pingWaiters) > 0 && p.pingWaiters[0].number <= p.pingAcks {
		w := p.pingWaiters[0]
		p.pingWaiters = p.pingWaiters[1:]
		w.fn(nil)
	}
}

// pingDue is the end of ping-int (ping if the line was silent) or of ping-timeout
// (give up, unless the data stream shows life). spec: wire 1.5.
func (p *peer) pingDue() {
	net := &p.c.cfg.Net
	switch {
	case p.phase != phaseUp:
	case p.pinging && p.lastData >= p.pingSent && p.lastData > 0 && p.c.now-p.pingSent < 4*net.PingTimeout:
		p.pingTimer.arm(p.c.now + net.PingTimeout)
	case p.pinging:
		p.c.logf(LogWarn, -1, "PingAck did not arrive in time")
		p.lose(protocol.NetworkFailure)
	default:
		if last := max(p.lastMeta, p.lastData); p.c.now-last < net.PingInterval {
			p.pingTimer.arm(last + net.PingInterval)
			return
		}
		p.sendPing()
	}
}

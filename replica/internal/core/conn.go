// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// The life of a connection (spec: behaviour 2.6, wire 1.6):
//
//	StandAlone -Connect-> Unconnected -> WFConnection -pair-> (features, authentication)
//	     ^                     ^              |                       |
//	     |                     |              |                 WFReportParams -> Connected …
//	     |                     +-- closed <- Timeout, BrokenPipe, NetworkFailure,
//	     |                                   ProtocolError, TearDown      (a loss: try again)
//	     +---- closed <- Disconnecting       (the administrator, or a refusal)

// start looks for the peer.
func (p *peer) start() {
	p.gen++
	p.phase = phaseConnecting
	p.session = protocol.Session{}
	p.c.changeAll(p, fact, func(s *protocol.State) { s.Conn = protocol.WFConnection })
	p.c.eff.Net = append(p.c.eff.Net, NetAction{Kind: NetConnect, Peer: p.idx, Gen: p.gen})
}

// Connected reports that the pair asked for by NetConnect exists. resolver is
// true if this node accepted the meta connection.
func (c *Core) Connected(peer int, gen uint64, resolver bool) {
	p := c.peers[peer]
	if gen != p.gen || p.phase != phaseConnecting {
		return // the shell will be told to close it, or was
	}
	p.resolver = resolver
	p.phase, p.gotProto, p.dryRun, p.lateLoss = phaseFeatures, false, false, false
	p.protocol = c.cfg.Net.Protocol
	p.digest, _ = protocol.LookupDigest(c.cfg.Net.IntegrityAlg)
	p.verifyAlg, _ = protocol.LookupDigest(c.cfg.Net.VerifyAlg)
	p.csumsAlg, _ = protocol.LookupDigest(c.cfg.Net.CSumsAlg)
	p.lastMeta, p.lastData = c.now, c.now
	p.rx.reset()
	for _, pd := range p.pds {
		pd.resetConnection()
	}
	p.handshakeTimer.arm(c.now + 4*c.cfg.Net.PingTimeout)
	send(p, protocol.DataStream, protocol.CmdConnectionFeatures, 0, p.ownFeatures())
	c.settle()
}

// resetConnection forgets what belonged to the last connection.
func (pd *peerDevice) resetConnection() {
	pd.idsValid, pd.sizesValid, pd.stateSent, pd.considerResync, pd.birthDue, pd.skipped = false, false, false, false, false, false
	pd.departing = false
	pd.seq, pd.uuidFlags, pd.uuidBits, pd.idsDue = 0, 0, 0, false
	pd.rx, pd.syncUUIDSet, pd.beforeHook, pd.pulled, pd.resizing = nil, false, false, false, false
	pd.aheadTimer.stop()
	pd.lateAcks = 0
	pd.writesSeen, pd.acksSeen, pd.ackSeq, pd.conflicts = 0, 0, 0, 0
	pd.discardMyData = pd.p.opt.DiscardMyData
	pd.sent, pd.received = 0, 0
}

func (p *peer) ownFeatures() protocol.ConnectionFeatures {
	net := &p.c.cfg.Net
	f := protocol.DefaultConnectionFeatures()
	f.Max = net.MaxVersion
	f.Features = protocol.OfferableFeatures(f.Max) & ^net.WithoutFeatures
	if net.IntegrityAlg != "" {
		// The kernel expects a digest with P_ZEROES and sends none (spec: wire 4.8).
		f.Features &^= protocol.FeatureWZeroes
	}
	return f
}

func (p *peer) receiveFeatures(f protocol.ConnectionFeatures) {
	v, features, err := protocol.Negotiate(p.ownFeatures(), f)
	if err == nil && v < 100 && len(p.pds) > 1 {
		err = fmt.Errorf("%d volumes need protocol version 100, agreed was %d", len(p.pds), v)
	}
	if err != nil {
		p.refuse(fmt.Errorf("%w: %w", ErrIncompatible, err))
		return
	}
	p.session.Version, p.session.Features = v, features
	p.c.logf(LogInfo, -1, "agreed on protocol version %d, features %v", v, features)
	p.c.eff.Net = append(p.c.eff.Net, NetAction{Kind: NetReadMeta, Peer: p.idx, Gen: p.gen})
	p.handshakeTimer.arm(p.c.now + 4*p.c.cfg.Net.PingTimeout)
	if p.c.cfg.Net.CRAMAlg == "" {
		p.sendParams()
		return
	}
	p.phase = phaseAuth
	p.ownNonce = p.ownNonce[:0]
	for len(p.ownNonce) < protocol.ChallengeBytes {
		r := p.c.cfg.Rand()
		for range 8 {
			p.ownNonce = append(p.ownNonce, byte(r))
			r >>= 8
		}
	}
	send(p, protocol.DataStream, protocol.CmdAuthChallenge, 0, protocol.AuthChallenge{Challenge: p.ownNonce})
}

// receiveAuth is authentication by challenge and response (spec: wire 4.2).
func (p *peer) receiveAuth(cmd protocol.Command, body []byte) error {
	net := &p.c.cfg.Net
	if cmd == protocol.CmdAuthChallenge {
		err := protocol.CheckChallenge(p.ownNonce, body)
		if err == nil {
			var r []byte
			if r, err = protocol.Response(net.CRAMAlg, []byte(net.Secret), body); err == nil {
				send(p, protocol.DataStream, protocol.CmdAuthResponse, 0, protocol.AuthResponse{Response: r})
				return nil
			}
		}
		p.refuse(fmt.Errorf("%w: %w", ErrAuthentication, err))
		return nil
	}
	err := protocol.VerifyResponse(net.CRAMAlg, []byte(net.Secret), p.ownNonce, body)
	switch {
	case err == nil:
		p.c.logf(LogInfo, -1, "peer authenticated using %s HMAC", net.CRAMAlg)
		p.sendParams()
	case errors.Is(err, protocol.ErrResponseLength):
		return err // a broken connection rather than a wrong secret
	default:
		p.refuse(fmt.Errorf("%w: %w", ErrAuthentication, err))
	}
	return nil
}

// sendParams is step 4 and 5 of spec: wire 8.1.
func (p *peer) sendParams() {
	c := p.c
	p.phase = phaseUp
	p.met++
	p.handshakeTimer.stop()
	p.pinging, p.pings, p.pingAcks = false, 0, 0
	p.pingTimer.arm(c.now + c.cfg.Net.PingInterval)
	c.changeAll(p, fact, func(s *protocol.State) { s.Conn = protocol.WFReportParams })
	send(p, protocol.DataStream, protocol.CmdProtocol, 0, p.ownProtocol())
	for _, pd := range p.pds {
		pd.sendSyncParam()
		pd.sendSizes(0)
		pd.sendUUIDs(0)
		s := pd.state()
		s.Conn = protocol.WFConnection // what a kernel has here; nobody reads it
		send(p, protocol.DataStream, protocol.CmdState, pd.v.cfg.Number, s)
		pd.stateSent = true
	}
}

// discarded ends discard-my-data, which is for one connection: the first on which every
// volume learns what to copy. One that breaks before that has resolved nothing.
func (p *peer) discarded() {
	for _, pd := range p.pds {
		if pd.conn != protocol.Connected && pd.conn < protocol.SyncSource {
			return
		}
	}
	p.opt.DiscardMyData = false
}

func (p *peer) ownProtocol() protocol.Protocol {
	net := &p.c.cfg.Net
	out := protocol.Protocol{
		Replication: net.Protocol, AfterSB0: net.AfterSB0, AfterSB1: net.AfterSB1, AfterSB2: net.AfterSB2,
		TwoPrimaries: net.AllowTwoPrimary, IntegrityAlg: net.IntegrityAlg,
	}
	if p.opt.DiscardMyData {
		out.Flags |= protocol.ProtocolDiscardMyData
	}
	if p.opt.Tentative {
		out.Flags |= protocol.ProtocolDryRun
	}
	return out
}

// receiveProtocol compares the settings that must match (spec: behaviour 4.2).
func (p *peer) receiveProtocol(peer protocol.Protocol) error {
	own := p.ownProtocol()
	own.Flags &^= protocol.ProtocolDiscardMyData // the handshake looks at both
	if err := own.Compatible(peer, &p.session); err != nil {
		p.refuse(fmt.Errorf("%w: %w", ErrIncompatible, err))
		return nil
	}
	alg, err := protocol.LookupDigest(peer.IntegrityAlg)
	if err != nil {
		p.refuse(fmt.Errorf("%w: data-integrity-alg: %w", ErrIncompatible, err))
		return nil
	}
	p.peerAlg, p.session.PeerDigestSize = alg, alg.Size()
	p.dryRun = p.opt.Tentative || peer.Flags&protocol.ProtocolDryRun != 0
	p.gotProto = true
	return nil
}

// receiveProtocolUpdate adopts what the peer's administrator changed (spec: wire 4.3).
func (p *peer) receiveProtocolUpdate(peer protocol.Protocol) {
	alg, err := protocol.LookupDigest(peer.IntegrityAlg)
	if err != nil || !peer.Valid() {
		p.refuse(fmt.Errorf("%w: the peer changed its settings: %w", ErrIncompatible, err))
		return
	}
	if peer.TwoPrimaries && peer.Replication != protocol.ProtocolC {
		p.refuse(fmt.Errorf("%w: the peer changed its settings: two Primaries need protocol C, not %v", ErrIncompatible, peer.Replication))
		return
	}
	p.c.adoptTwoPrimaries(peer.TwoPrimaries)
	p.peerAlg, p.session.PeerDigestSize = alg, alg.Size()
	p.protocol = peer.Replication
	net := &p.c.cfg.Net
	// They are configured from now on: the next connection compares them again.
	net.Protocol, net.IntegrityAlg = peer.Replication, peer.IntegrityAlg
	net.AfterSB0, net.AfterSB1, net.AfterSB2 = peer.AfterSB0.Mirrored(), peer.AfterSB1.Mirrored(), peer.AfterSB2.Mirrored()
	p.c.logf(LogInfo, -1, "peer changed the protocol to %v", peer.Replication)
}

// handshakeTimedOut: features or authentication took too long.
func (p *peer) handshakeTimedOut() {
	if p.lateLoss {
		p.lose(protocol.NetworkFailure)
	} else if p.phase == phaseFeatures || p.phase == phaseAuth {
		p.c.logf(LogWarn, -1, "the peer did not finish features and authentication in time")
		p.lose(protocol.BrokenPipe)
	}
}

// Lost reports that a stream of the pair ended or failed. timeout tells a send
// that made no progress for Timeout × KoCount.
func (c *Core) Lost(peer int, gen uint64, s protocol.Stream, err error, timeout bool) {
	p := c.peers[peer]
	if gen != p.gen || !p.alive() {
		return
	}
	why := protocol.BrokenPipe
	switch {
	case s == protocol.DataStream && isViolation(err):
		why = protocol.ProtocolError
	case timeout:
		why = protocol.Timeout
	case s == protocol.MetaStream:
		why = protocol.NetworkFailure
	}
	c.logf(LogWarn, -1, "lost the %v stream: %v", s, err)
	switch {
	case p.leaving() && s == protocol.DataStream && p.clusterReqs[0].outdates() && !p.lateLoss:
		// Its reply, on the other stream, says whether a disk is Outdated now.
		p.lateLoss = true
		p.handshakeTimer.arm(c.now + c.cfg.Net.PingTimeout)
	case p.leaving():
		// The peer agreed and went; its reply, on the other stream, was slower.
		if req := p.clusterReqs[0].req; req.Mask.Disk == protocol.DiskMask {
			p.leaveAs(req) // it counts on our disk being outdated
		} else {
			p.disconnectNow(true)
		}
	case s == protocol.MetaStream && p.handshaking() && !p.lateLoss:
		// A peer that refuses us closes both streams. What it has said on the data
		// stream may still be on its way, and both nodes must come to a verdict.
		p.lateLoss = true
		p.handshakeTimer.arm(c.now + c.cfg.Net.PingTimeout)
	default:
		p.lose(why)
	}
	c.settle()
}

// leaving reports whether this node has asked to disconnect.
func (p *peer) leaving() bool {
	return len(p.clusterReqs) > 0 && p.clusterReqs[0].sent && p.clusterReqs[0].pd == nil
}

// isViolation reports whether a read failed because of what the peer sent.
func isViolation(err error) bool {
	for _, bad := range []error{protocol.ErrBadMagic, protocol.ErrHeaderPadding, protocol.ErrUnknownCommand,
		protocol.ErrWrongStream, protocol.ErrLength, protocol.ErrField} {
		if errors.Is(err, bad) {
			return true
		}
	}
	return false
}

// violate ends the connection because of what the peer sent.
func (p *peer) violate(st protocol.Stream, err error) {
	p.c.logf(LogError, -1, "protocol violation on the %v stream: %v", st, err)
	if st == protocol.MetaStream {
		p.lose(protocol.NetworkFailure)
		return
	}
	p.lose(protocol.ProtocolError)
}

// lose leaves a connection for a reason that asks for a new one.
func (p *peer) lose(why protocol.ConnState) {
	if !p.alive() {
		return
	}
	p.shakyUntilUp = p.handshaking()
	p.c.changeAll(p, fact, func(s *protocol.State) { s.Conn = why })
	p.close(why == protocol.TearDown)
}

// refuse leaves a connection for good: StandAlone, until the administrator acts.
// What was sent before is still delivered, so that the peer comes to its own verdict.
func (p *peer) refuse(err error) {
	if !p.alive() {
		return
	}
	p.c.logf(LogError, -1, "connection refused: %v", err)
	p.c.event(Event{Kind: EventRefused, Volume: -1, Peer: p.idx, Err: err, Text: err.Error()})
	p.refusing = true
	p.disconnectNow(true)
	p.refusing = false
}

// disconnectNow goes to Disconnecting; the cleanup leads to StandAlone.
func (p *peer) disconnectNow(graceful bool) {
	p.wantConn = false
	p.c.changeAll(p, fact, func(s *protocol.State) { s.Conn = protocol.Disconnecting })
	p.close(graceful)
}

// close tells the shell to close the pair, or to stop looking for one.
func (p *peer) close(graceful bool) {
	switch p.phase {
	case phaseNone, phaseClosing:
		return
	}
	p.phase = phaseClosing
	p.handshakeTimer.stop()
	p.pingTimer.stop()
	p.acksTimer.stop()
	p.c.eff.Net = append(p.c.eff.Net, NetAction{Kind: NetClose, Peer: p.idx, Gen: p.gen, Graceful: graceful, Refused: p.refusing})
	p.abandon()
}

// abandon ends what hung on the connection: nobody will answer any more.
func (p *peer) abandon() {
	p.pinging = false
	waiters := p.pingWaiters
	p.pingWaiters = nil
	for _, w := range waiters {
		w.fn(ErrConnectionLost)
	}
	p.failClusterRequests()
	for _, pd := range p.pds {
		pd.stopResync()
		pd.endVerify(fmt.Errorf("verify: %w", ErrConnectionLost))
		pd.rx, pd.syncUUIDSet = nil, false
	}
	p.abandonRequests()
	p.rx.abandon(p)
	p.abandonReads()
}

// Closed reports that every goroutine of the pair has ended, every Out was
// returned, and (for NetConnect that was stopped) no attempt is under way.
func (c *Core) Closed(peer int, gen uint64) {
	p := c.peers[peer]
	if gen != p.gen || p.phase != phaseClosing {
		return
	}
	for st, o := range p.out {
		if !o.Empty() {
			spare := &Out{}
			p.out[st] = spare
			c.OutDone(peer, o)
		}
	}
	p.phase = phaseNone
	p.closedWait = true
	p.cleanup()
	c.settle()
}

// cleanup is the end of a connection, once the peer's last requests have left the
// disk (spec: behaviour 2.6).
func (p *peer) cleanup() {
	if !p.closedWait || p.cleaning || p.peerReqs > 0 {
		return
	}
	p.session = protocol.Session{}
	for _, pd := range p.pds {
		pd.idsValid = false
		pd.unacked, pd.pending, pd.rsPending = 0, 0, 0
		pd.v.md.dirty = true
		pd.v.writeBitmap(nil, func(error) {})
	}
	p.lostPeer()
	// The next connection tells our generation. One that a crash could take back would
	// bring the peer, as the source of a resync, to names that this disk never heard of.
	p.cleaning = true
	p.c.when(p.namesDurable, func() {
		p.cleaning, p.closedWait = false, false
		p.closedUp()
	})
}

// namesDurable reports whether every disk holds the generation that it is said to have.
func (p *peer) namesDurable() bool {
	for _, pd := range p.pds {
		v := pd.v
		if v.disk >= protocol.Inconsistent && v.metaUsable() && !v.md.durable.Equal(v.ids.Current) {
			return false
		}
		if v.mayBeBorn() {
			return false
		}
	}
	return true
}

// mayBeBorn reports whether a disk that has failed may still come to hold a generation,
// which then counts when it is back.
func (v *volume) mayBeBorn() bool {
	return v.disk == protocol.Failed && v.md.writing && v.unborn != metadata.UUIDNone
}

// closedUp goes on after a connection: to StandAlone, or to the next one.
func (p *peer) closedUp() {
	if !p.wantConn {
		p.c.changeAll(p, fact, func(s *protocol.State) {
			if s.Conn != protocol.StandAlone {
				s.Conn = protocol.Disconnecting
			}
		})
		p.c.changeAll(p, fact, func(s *protocol.State) { s.Conn = protocol.StandAlone })
		return
	}
	p.c.changeAll(p, fact, func(s *protocol.State) { s.Conn = protocol.Unconnected })
	if p.shakyUntilUp {
		p.shakyUntilUp = false
		p.retryTimer.arm(p.c.now + time.Second)
		return
	}
	p.start()
}

func (p *peer) retryConnect() {
	if p.phase == phaseNone && p.wantConn {
		p.start()
	}
}

// ConnectOptions are the one-shot options of Connect.
type ConnectOptions struct {
	DiscardMyData bool
	Tentative     bool
}

// Connect leaves StandAlone. It finishes when the node is in WFConnection.
func (c *Core) Connect(cmd *Command, peer int, opt ConnectOptions) {
	p := c.peers[peer]
	err := error(nil)
	switch {
	case p.conn() != protocol.StandAlone || p.phase != phaseNone || p.closedWait:
		err = fmt.Errorf("connect: %w", ErrConnected)
	case c.cfg.noPeer:
		err = fmt.Errorf("connect: %w: no peer is configured", ErrConfig)
	case opt.DiscardMyData && c.anyPrimary():
		err = fmt.Errorf("connect: %w: discard-my-data on a Primary; demote it first", ErrRefused)
	}
	if err == nil {
		p.opt, p.wantConn = opt, true
		if code := c.changeAll(p, wish, func(s *protocol.State) { s.Conn = protocol.Unconnected }); !code.Success() {
			err = refused("connect", code, false)
		} else {
			p.start()
		}
	}
	c.finish(cmd, err)
	c.settle()
}

func (c *Core) anyPrimary() bool {
	for _, v := range c.vols {
		if v.role == protocol.Primary {
			return true
		}
	}
	return false
}

// Disconnect goes to StandAlone; force does not ask the peer. It finishes there.
func (c *Core) Disconnect(cmd *Command, peer int, force bool) {
	p := c.peers[peer]
	if p.conn() == protocol.StandAlone && p.phase == phaseNone && !p.closedWait {
		c.finish(cmd, nil)
		c.settle()
		return
	}
	p.wantConn = false
	c.when(func() bool { return p.conn() == protocol.StandAlone && p.phase == phaseNone }, func() { c.finish(cmd, nil) })
	switch {
	case p.phase == phaseUp && p.conn() >= protocol.Connected && !force:
		p.askDisconnect()
	case p.phase == phaseUp && !force:
		// In the middle of the handshake: wait for its end, then ask.
		c.when(func() bool { return p.phase != phaseUp || p.conn() >= protocol.Connected }, func() {
			if p.phase == phaseUp {
				p.askDisconnect()
			}
		})
	case p.retryTimer.set:
		p.retryTimer.stop()
		p.closedWait = true
		p.cleanup()
	case p.alive() || p.phase == phaseConnecting:
		p.disconnectNow(false)
	}
	c.settle()
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import "github.com/go-blockmirror/blockmirror/protocol"

// Changes that need the peer's consent (spec: behaviour 2.5): check here, ask,
// and on consent apply to the state as it then is. One is out at a time.

// clusterRequest is a change that waits for its turn, or for the reply.
type clusterRequest struct {
	pd   *peerDevice // nil: the whole connection
	req  protocol.StateRequest
	done func(protocol.Code)
	ask  bool // only ask; the change is made by done
	sent bool
	over func() bool // nobody wants it any more; nil for what goes on until it ends
}

// given reports whether the request was given up: it is not made, and done is not called.
func (r *clusterRequest) given() bool { return r.over != nil && r.over() }

// refused makes an error of a refusal.
func refused(doing string, code protocol.Code, byPeer bool) error {
	return &RefusedError{Doing: doing, Code: code, ByPeer: byPeer}
}

// cluster asks the peer for a change on one volume. On consent the change is made
// here, then done gets the result. Without a connection done gets CodeKeepWaiting.
func (pd *peerDevice) cluster(req protocol.StateRequest, done func(protocol.Code)) {
	pd.p.queueCluster(&clusterRequest{pd: pd, req: req, done: done})
}

// clusterConn is cluster for the whole connection.
func (p *peer) clusterConn(req protocol.StateRequest, done func(protocol.Code)) {
	p.queueCluster(&clusterRequest{req: req, done: done})
}

func (p *peer) queueCluster(r *clusterRequest) {
	p.clusterReqs = append(p.clusterReqs, r)
	p.sendCluster()
}

// sendCluster sends the first request of the queue, unless it is out already.
func (p *peer) sendCluster() {
	for len(p.clusterReqs) > 0 && !p.clusterReqs[0].sent && p.clusterReqs[0].given() {
		p.clusterReqs = p.clusterReqs[1:]
	}
	if len(p.clusterReqs) == 0 || p.clusterReqs[0].sent {
		return
	}
	if p.phase != phaseUp {
		p.failClusterRequests()
		return
	}
	r := p.clusterReqs[0]
	r.sent = true
	switch {
	case r.pd != nil:
		send(p, protocol.DataStream, protocol.CmdStateChgReq, r.pd.v.cfg.Number, r.req)
	case p.session.CanSend(protocol.CmdConnStChgReq):
		send(p, protocol.DataStream, protocol.CmdConnStChgReq, 0, r.req)
	default: // below version 100 there is one volume, and it speaks for the connection
		send(p, protocol.DataStream, protocol.CmdStateChgReq, p.pds[0].v.cfg.Number, r.req)
	}
}

// receiveStateReply is the peer's answer to the request that is out. One that
// nobody asked for is dropped.
func (p *peer) receiveStateReply(code protocol.Code) {
	if len(p.clusterReqs) == 0 || !p.clusterReqs[0].sent {
		p.c.logf(LogWarn, -1, "unsolicited state reply %d from the peer", int32(code))
		return
	}
	r := p.clusterReqs[0]
	p.clusterReqs = p.clusterReqs[1:]
	if r.given() {
		if code.Success() {
			r.pd.sendState() // the peer takes it for done
		}
		p.sendCluster()
		return
	}
	if code.Success() && r.pd != nil && !r.ask {
		code = p.c.change(r.pd, wish, func(s *protocol.State) { *s = r.req.Apply(*s) })
		switch {
		case code.Success():
		case code == protocol.CodeInTransientState && r.req.Mask == (protocol.State{Role: protocol.RoleMask}):
			r.pd.sendState() // not yet, as a disk is being attached: the wish is told anew then
		default:
			p.meetAgain("the peer agreed to a change that is not possible any more")
		}
	}
	r.done(code)
	p.sendCluster()
}

// meetAgain connects anew: the nodes do not agree on what they are, and a handshake
// settles that.
func (p *peer) meetAgain(why string) {
	if p.phase != phaseUp {
		return
	}
	p.c.logf(LogWarn, -1, "%s: connecting anew", why)
	p.meeting = true
	p.lose(protocol.ProtocolError)
}

// failClusterRequests: the connection is gone, and with it the one who could answer.
func (p *peer) failClusterRequests() {
	reqs := p.clusterReqs
	p.clusterReqs = nil
	for _, r := range reqs {
		if !r.given() {
			r.done(protocol.CodeKeepWaiting)
		}
	}
}

// concurrent reports whether an incoming request meets an own one that goes first.
func (p *peer) concurrent() bool {
	return p.resolver && len(p.clusterReqs) > 0 && p.clusterReqs[0].sent
}

// refusedLeaving judges a request while the own disk is about to go: the peer has
// agreed to that, and the state does not say so yet.
func (pd *peerDevice) refusedLeaving(in protocol.StateRequest) protocol.Code {
	if !pd.v.leaving {
		return protocol.CodeSuccess
	}
	if in.Mask.Conn == protocol.ConnMask && in.Value.Conn > protocol.Connected {
		return protocol.CodeNoLocalDisk
	}
	s := in.Apply(pd.state())
	s.Disk = protocol.Failed
	if _, code, bad := invalid(s, pd.v.c.ruleEnv(pd)); bad {
		return code
	}
	return protocol.CodeSuccess
}

// refusedDetach judges the wish of a Primary to detach its disk while this node's is not
// good: V13, seen from here. The peer may take it for good. Below version 96 the source of
// a resync notices its end before the target does.
func (pd *peerDevice) refusedDetach(in protocol.StateRequest) protocol.Code {
	if in.Mask.PeerDisk == protocol.DiskMask && in.Value.PeerDisk < protocol.UpToDate && pd.role == protocol.Primary &&
		pd.disk == protocol.UpToDate && pd.v.disk < protocol.UpToDate {
		return protocol.CodeNoUpToDateDisk
	}
	return protocol.CodeSuccess
}

// receiveStateRequest decides about the peer's wish for one volume. The change is
// made first, then the reply goes out, then come its consequences (spec: wire 8.10).
func (pd *peerDevice) receiveStateRequest(q protocol.StateRequest) {
	p, c := pd.p, pd.p.c
	if p.session.Version < 100 && q.Mask.Conn == protocol.ConnMask && q.Value.Conn == protocol.Disconnecting {
		p.receiveConnRequest(q)
		return
	}
	if pd.knows(q.Swapped()) {
		pd.answerKnown()
		return
	}
	code := protocol.CodeConcurrentStateChange
	nested := c.settling
	c.settling = true
	if !p.concurrent() {
		in := q.Swapped()
		if code = pd.refusedLeaving(in); code.Success() {
			code = pd.refusedDetach(in)
		}
		if code.Success() {
			code = pd.refusedOlder(in)
		}
		if code.Success() {
			departing := pd.departing
			pd.departing = departing || in.Mask.PeerDisk == protocol.DiskMask && in.Value.PeerDisk <= protocol.Failed && pd.disk > protocol.Failed
			if code = c.change(pd, wish, func(s *protocol.State) { *s = in.Apply(*s) }); !code.Success() {
				pd.departing = departing
			}
		}
	}
	send(p, protocol.MetaStream, protocol.CmdStateChgReply, pd.v.cfg.Number, protocol.StateReply{Code: code})
	c.settling = nested
	pd.consenting = true
	c.drain()
	pd.consenting = false
}

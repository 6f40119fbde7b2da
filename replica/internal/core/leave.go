// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import "github.com/go-blockmirror/blockmirror/protocol"

// Leaving in good order (spec: behaviour 2.6). With fencing the Secondary is outdated
// by the nodes themselves, whoever leaves: no handler has to be called.

// askDisconnect tells the peer, and goes when it has agreed. A peer that refuses,
// or does not answer, does not hold us.
func (p *peer) askDisconnect() {
	req := protocol.StateRequest{}.WithConn(protocol.Disconnecting)
	if p.allowedAll(req) == protocol.CodePeerNotOutdated {
		req = req.WithPeerDisk(protocol.Outdated) // we are Primary, with fencing
	}
	p.clusterConn(req, func(code protocol.Code) {
		switch {
		case !p.alive():
		case code.Success():
			p.leaveAs(req)
		case code == protocol.CodePeerNotOutdated && p.disksAtLeast(protocol.Outdated):
			p.askOutdated() // the peer is
		default:
			p.c.logf(LogWarn, -1, "the peer did not agree to disconnect: %v", code)
			p.disconnectNow(true)
		}
	})
}

// askOutdated leaves a Primary with fencing, which goes on alone: this node's disks
// are older from now on.
func (p *peer) askOutdated() {
	req := protocol.StateRequest{}.WithConn(protocol.Disconnecting).WithDisk(protocol.Outdated)
	p.clusterConn(req, func(code protocol.Code) {
		switch {
		case !p.alive():
		case code.Success():
			p.leaveAs(req)
		default:
			p.c.logf(LogWarn, -1, "the peer did not agree to disconnect and to an outdated disk here: %v", code)
			p.disconnectNow(true)
		}
	})
}

// outdates reports whether a request is about a disk, too.
func (r *clusterRequest) outdates() bool {
	return r.req.Mask.Disk == protocol.DiskMask || r.req.Mask.PeerDisk == protocol.DiskMask
}

// leaveAs is disconnectNow with what was agreed about the disks.
func (p *peer) leaveAs(req protocol.StateRequest) {
	p.c.changeAll(p, fact, func(s *protocol.State) { *s = agreed(*s, req) })
	p.disconnectNow(true)
}

// agreed applies a request of the connection to one volume: it outdates disks, and
// makes none better.
func agreed(s protocol.State, req protocol.StateRequest) protocol.State {
	if s.Disk <= req.Value.Disk {
		req.Mask.Disk = 0
	}
	if s.PeerDisk <= req.Value.PeerDisk {
		req.Mask.PeerDisk = 0
	}
	return req.Apply(s)
}

// allowedAll asks the rules about a request on all volumes; the first refusal counts.
func (p *peer) allowedAll(req protocol.StateRequest) protocol.Code {
	for _, pd := range p.pds {
		one := req
		if one.Mask.Disk == protocol.DiskMask && pd.v.disk < protocol.Outdated {
			one.Mask.Disk = 0 // already worse than what is asked for
		}
		if code := p.c.allowed(pd, func(s *protocol.State) { *s = one.Apply(*s) }); !code.Success() {
			return code
		}
	}
	return protocol.CodeSuccess
}

func (p *peer) disksAtLeast(d protocol.DiskState) bool {
	for _, pd := range p.pds {
		if pd.v.disk < d {
			return false
		}
	}
	return true
}

// receiveConnRequest decides about the peer's wish for the connection; in
// practice its wish to disconnect.
func (p *peer) receiveConnRequest(q protocol.StateRequest) {
	in := q.Swapped()
	if p.concurrent() {
		p.replyConnRequest(protocol.CodeConcurrentStateChange)
		return
	}
	code := p.allowedAll(in)
	leaving := in.Mask.Conn == protocol.ConnMask && in.Value.Conn == protocol.TearDown
	if !code.Success() || !leaving {
		p.replyConnRequest(code)
		return
	}
	outdates := false
	for _, pd := range p.pds {
		outdates = outdates || in.Mask.Disk == protocol.DiskMask && pd.v.disk > in.Value.Disk
	}
	if in.Mask.Disk == protocol.DiskMask || in.Mask.PeerDisk == protocol.DiskMask {
		p.c.changeAll(p, fact, func(s *protocol.State) { *s = agreed(*s, in) })
	}
	if !outdates {
		p.replyConnRequest(protocol.CodeSuccess)
		p.lose(protocol.TearDown)
		return
	}
	p.consentDurably()
}

// consentDurably: the peer goes on alone and counts on this node never taking its
// disks for good again. So that is on the disks before the peer hears of it.
func (p *peer) consentDurably() {
	gen, left, code := p.gen, 1, protocol.CodeSuccess
	done := func(err error) {
		if err != nil {
			code = protocol.CodeLowerThanOutdated
		}
		if left--; left == 0 && p.gen == gen && p.alive() {
			p.replyConnRequest(code)
			p.lose(protocol.TearDown)
		}
	}
	for _, pd := range p.pds {
		if pd.v.metaUsable() {
			left++
			pd.v.syncSuper(done)
		}
	}
	done(nil)
}

func (p *peer) replyConnRequest(code protocol.Code) {
	cmd := protocol.CmdConnStChgReply
	if !p.session.CanSend(cmd) {
		cmd = protocol.CmdStateChgReply
	}
	send(p, protocol.MetaStream, cmd, 0, protocol.StateReply{Code: code})
}

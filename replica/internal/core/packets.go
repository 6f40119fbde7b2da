// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// Receive delivers one packet, in stream order. body holds the fixed part (and
// digest); payload the bulk data, or nil. The core owns payload, not body.
func (c *Core) Receive(peer int, gen uint64, s protocol.Stream, h protocol.Header, body []byte, payload *Buffer) {
	p := c.peers[peer]
	if gen != p.gen || !p.alive() {
		payload.Release()
		return
	}
	var err error
	if s == protocol.MetaStream {
		p.lastMeta = c.now
		err = p.receiveMeta(h, body)
	} else {
		p.lastData = c.now
		err = p.receiveData(h, body, payload)
	}
	if err != nil {
		p.violate(s, fmt.Errorf("%v: %w", h.Command, err))
	}
	c.settle()
}

// errSequence is a packet at a time at which it may not come.
var errSequence = fmt.Errorf("%w: out of sequence", protocol.ErrField)

// volume returns the peer device that a packet names, or nil.
func (p *peer) volume(number uint16) *peerDevice {
	for _, pd := range p.pds {
		if pd.v.cfg.Number == number {
			return pd
		}
	}
	return nil
}

// receiveData dispatches what comes on the data stream.
func (p *peer) receiveData(h protocol.Header, body []byte, payload *Buffer) error {
	switch p.phase {
	case phaseFeatures:
		var f protocol.ConnectionFeatures
		if err := decode(&f, h, protocol.CmdConnectionFeatures, body, &p.session); err != nil {
			p.refuse(fmt.Errorf("%w: %w", ErrIncompatible, err))
			return nil
		}
		p.receiveFeatures(f)
		return nil
	case phaseAuth:
		if h.Command != protocol.CmdAuthChallenge && h.Command != protocol.CmdAuthResponse {
			p.refuse(fmt.Errorf("%w: it sent %v", ErrAuthentication, h.Command))
			return nil
		}
		return p.receiveAuth(h.Command, body)
	}
	if !p.gotProto && h.Command != protocol.CmdProtocol {
		payload.Release()
		if h.Command == protocol.CmdAuthChallenge {
			p.refuse(fmt.Errorf("%w: the peer wants cram-hmac-alg, none is configured here", ErrAuthentication))
			return nil
		}
		return errSequence
	}
	if h.Command.PerVolume() {
		return p.receiveVolume(h, body, payload)
	}
	return p.receiveConnection(h, body)
}

// decode is Decode for a packet that must be want.
func decode[P protocol.Packet](pkt P, h protocol.Header, want protocol.Command, body []byte, s *protocol.Session) error {
	if h.Command != want {
		return fmt.Errorf("%w: %v instead of %v", protocol.ErrUnknownCommand, h.Command, want)
	}
	return pkt.Decode(body, s)
}

// receiveConnection handles packets that concern the whole connection.
func (p *peer) receiveConnection(h protocol.Header, body []byte) error {
	switch h.Command {
	case protocol.CmdBarrier:
		var b protocol.Barrier
		if err := b.Decode(body, &p.session); err != nil {
			return err
		}
		p.receiveBarrier(b.Number)
	case protocol.CmdProtocol, protocol.CmdProtocolUpdate:
		var q protocol.Protocol
		if err := q.Decode(body, &p.session); err != nil {
			return err
		}
		if h.Command == protocol.CmdProtocolUpdate {
			p.receiveProtocolUpdate(q)
			return nil
		}
		if p.gotProto {
			return errSequence
		}
		return p.receiveProtocol(q)
	case protocol.CmdConnStChgReq:
		var q protocol.StateRequest
		if err := q.Decode(body, &p.session); err != nil {
			return err
		}
		p.receiveConnRequest(q)
	case protocol.CmdUnplugRemote, protocol.CmdDelayProbe:
	default:
		return errSequence
	}
	return nil
}

// receiveVolume handles packets that name a volume.
func (p *peer) receiveVolume(h protocol.Header, body []byte, payload *Buffer) error {
	pd := p.volume(h.Volume)
	if pd == nil {
		payload.Release()
		switch h.Command {
		case protocol.CmdSyncParam, protocol.CmdSyncParam89, protocol.CmdSizes, protocol.CmdUUIDs, protocol.CmdState,
			protocol.CmdUnplugRemote, protocol.CmdDelayProbe, protocol.Cmd9x58, protocol.Cmd9x59:
			p.c.logf(LogWarn, -1, "%v for volume %d, which is not configured here: skipped", h.Command, h.Volume)
			return nil
		}
		return fmt.Errorf("%w: volume %d is not configured here", protocol.ErrField, h.Volume)
	}
	if pd.rx != nil && pd.rx.Bit() > 0 && h.Command != protocol.CmdBitmap && h.Command != protocol.CmdCompressedBitmap {
		payload.Release()
		return fmt.Errorf("%w: in the middle of a bitmap", errSequence)
	}
	switch h.Command {
	case protocol.CmdData, protocol.CmdTrim, protocol.CmdZeroes, protocol.CmdWSame:
		return pd.receiveWrite(h, body, payload)
	case protocol.CmdDataReply, protocol.CmdRSDataReply:
		return pd.receiveReply(h, body, payload)
	}
	payload.Release()
	return pd.receiveControl(h, body)
}

// receiveControl handles a volume's packets without payload.
func (pd *peerDevice) receiveControl(h protocol.Header, body []byte) error {
	s := &pd.p.session
	switch h.Command {
	case protocol.CmdDataRequest, protocol.CmdRSDataRequest, protocol.CmdRSThinReq, protocol.CmdCsumRSRequest:
		var q protocol.BlockRequest
		if err := q.Decode(body, s); err != nil {
			return err
		}
		return pd.receiveRequest(h.Command, q)
	case protocol.CmdSyncParam, protocol.CmdSyncParam89:
		var q protocol.SyncParam
		if err := q.Decode(body, s); err != nil {
			return err
		}
		pd.receiveSyncParam(q)
	case protocol.CmdSizes:
		var q protocol.Sizes
		if err := q.Decode(body, s); err != nil {
			return err
		}
		pd.receiveSizes(q)
	case protocol.CmdUUIDs:
		var q protocol.UUIDs
		if err := q.Decode(body, s); err != nil {
			return err
		}
		pd.receiveUUIDs(q)
	case protocol.CmdState:
		var q protocol.State
		if err := q.Decode(body, s); err != nil {
			return err
		}
		pd.receiveState(q)
	case protocol.CmdStateChgReq:
		var q protocol.StateRequest
		if err := q.Decode(body, s); err != nil {
			return err
		}
		pd.receiveStateRequest(q)
	case protocol.CmdSyncUUID:
		var q protocol.SyncUUID
		if err := q.Decode(body, s); err != nil {
			return err
		}
		pd.receiveSyncUUID(q.UUID)
	case protocol.CmdOutOfSync:
		var q protocol.BlockDescription
		if err := q.Decode(body, s); err != nil {
			return err
		}
		return pd.receiveOutOfSync(q)
	case protocol.CmdRSDeallocated:
		var q protocol.BlockDescription
		if err := q.Decode(body, s); err != nil {
			return err
		}
		return pd.receiveDeallocated(q)
	case protocol.CmdBitmap, protocol.CmdCompressedBitmap:
		return pd.receiveBitmap(h, body)
	case protocol.CmdUnplugRemote, protocol.CmdDelayProbe, protocol.Cmd9x58, protocol.Cmd9x59:
	case protocol.CmdOVRequest, protocol.CmdOVReply:
		var q protocol.BlockRequest
		if err := q.Decode(body, s); err != nil {
			return err
		}
		if h.Command == protocol.CmdOVReply {
			return pd.receiveVerifyReply(q)
		}
		return pd.receiveVerifyRequest(q)
	default:
		return errSequence
	}
	return nil
}

// receiveMeta dispatches what comes on the meta stream.
func (p *peer) receiveMeta(h protocol.Header, body []byte) error {
	s := &p.session
	switch h.Command {
	case protocol.CmdPing:
		p.answerPing()
		return nil
	case protocol.CmdPingAck:
		p.pingAck()
		return nil
	case protocol.CmdBarrierAck:
		var a protocol.BarrierAck
		if err := a.Decode(body, s); err != nil {
			return err
		}
		if err := p.receiveBarrierAck(a); err != nil {
			// The kernel, too, takes this as a violation of the data stream's rules.
			p.violate(protocol.DataStream, err)
		}
		return nil
	case protocol.CmdStateChgReply, protocol.CmdConnStChgReply:
		var r protocol.StateReply
		if err := r.Decode(body, s); err != nil {
			return err
		}
		p.receiveStateReply(r.Code)
		return nil
	case protocol.CmdDelayProbe:
		return nil
	}
	pd := p.volume(h.Volume)
	if pd == nil {
		return fmt.Errorf("%w: volume %d is not configured here", protocol.ErrField, h.Volume)
	}
	var a protocol.BlockAck
	if err := a.Decode(body, s); err != nil {
		return err
	}
	return pd.receiveAck(h.Command, a)
}

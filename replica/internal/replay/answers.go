// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/binary"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// What the player answers for the kernel, because it depends on time.

// pings matches the core's pings with the kernel's answers. A node pings when nothing
// has come for a while, which need not be so in a replay, and the other way round.
type pings struct {
	ahead  int  // answers that the recording still has
	open   int  // pings that wait for one of them
	credit int  // answers that came before the ping
	due    int  // pings to be answered at once
	silent bool // the kernel did not answer every ping, and that matters
}

func (p *pings) sent() {
	switch {
	case p.silent:
	case p.credit > 0:
		p.credit--
		p.due++
	case p.open >= p.ahead:
		p.due++
	default:
		p.open++
	}
}

// acked notes an answer of the recording, and reports whether it is to be delivered.
func (p *pings) acked() bool {
	p.ahead--
	switch {
	case p.silent:
		return true
	case p.open > 0:
		p.open--
		return true
	}
	p.credit++
	return false
}

// epochs answers barriers. Where the application's requests overlap, which of them are in
// one epoch is a matter of luck, and the recorded answers would not fit.
type epochs struct {
	acks    bool // writes are acknowledged: every protocol but A
	current []protocol.BlockID
	open    map[protocol.BlockID]bool
	waiting []epoch
}

type epoch struct {
	number uint32
	writes []protocol.BlockID
}

// sent notes what the core has sent, and reports whether it was a barrier.
func (e *epochs) sent(c protocol.Command, front []byte) bool {
	if e == nil {
		return false
	}
	switch c {
	case protocol.CmdData, protocol.CmdTrim, protocol.CmdZeroes:
		id := protocol.BlockID(binary.BigEndian.Uint64(front[8:]))
		e.current = append(e.current, id)
		e.open[id] = e.acks
	case protocol.CmdBarrier:
		e.waiting = append(e.waiting, epoch{binary.BigEndian.Uint32(front), e.current})
		e.current = nil
		return true
	}
	return false
}

func (e *epochs) acked(id protocol.BlockID) {
	if e != nil {
		delete(e.open, id)
	}
}

// next returns the answer to the oldest barrier, nil if it has to wait.
func (e *epochs) next() []byte {
	if e == nil || len(e.waiting) == 0 {
		return nil
	}
	first := e.waiting[0]
	for _, id := range first.writes {
		if e.open[id] {
			return nil
		}
	}
	e.waiting = e.waiting[1:]
	b := binary.BigEndian.AppendUint32(nil, first.number)
	return binary.BigEndian.AppendUint32(b, uint32(len(first.writes)))
}

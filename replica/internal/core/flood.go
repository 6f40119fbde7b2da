// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import "github.com/go-blockmirror/blockmirror/protocol"

// What a peer may have under way here without a bound of its own. Data has one, the
// Allocator; requests and the small answers to them have this. An honest peer stays far
// below.
const (
	maxPeerRequests = 16384
	maxMetaBytes    = 4 << 20 // of answers that it has not read
)

// Flooded reports whether the shell should read no more from the peer's data stream
// until requests that are here have been served, and answers have been read. The meta
// stream is always read: what is asked for there, pings, is not answered instead.
func (c *Core) Flooded(peer int) bool {
	p := c.peers[peer]
	n := p.peerReqs
	for _, pd := range p.pds {
		n += pd.rsPending
	}
	return n >= maxPeerRequests || p.unread()
}

// unread reports whether the peer leaves too many answers unread.
func (p *peer) unread() bool { return p.out[protocol.MetaStream].bytes >= maxMetaBytes }

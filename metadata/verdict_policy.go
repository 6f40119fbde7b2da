// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"errors"
	"fmt"
)

// SplitBrainPolicy is a value of after-sb-0pri, after-sb-1pri or after-sb-2pri. The
// numbers are those of P_PROTOCOL (spec: wire 4.3); the zero value is DRBD's default.
type SplitBrainPolicy uint32

// The policies (spec: behaviour 4.3). Which of them an option may have: see
// Policies.
const (
	PolicyDisconnect            SplitBrainPolicy = 0
	PolicyDiscardYoungerPrimary SplitBrainPolicy = 1 // the node that was promoted later loses
	PolicyDiscardOlderPrimary   SplitBrainPolicy = 2
	PolicyDiscardZeroChanges    SplitBrainPolicy = 3 // only a node without changes may lose
	PolicyDiscardLeastChanges   SplitBrainPolicy = 4
	PolicyDiscardLocal          SplitBrainPolicy = 5 // old configurations; pairs with discard-remote
	PolicyDiscardRemote         SplitBrainPolicy = 6
	PolicyConsensus             SplitBrainPolicy = 7 // after-sb-0pri, if it makes the Secondary lose
	PolicyDiscardSecondary      SplitBrainPolicy = 8
	PolicyCallPriLost           SplitBrainPolicy = 9  // after-sb-0pri; a losing Primary has to demote
	PolicyViolently             SplitBrainPolicy = 10 // after-sb-0pri, whatever the roles
)

var policyNames = [...]string{
	"disconnect", "discard-younger-primary", "discard-older-primary", "discard-zero-changes",
	"discard-least-changes", "discard-local", "discard-remote", "consensus", "discard-secondary",
	"call-pri-lost-after-sb", "violently-as0p",
}

// String returns the name as drbd.conf spells it.
func (p SplitBrainPolicy) String() string {
	if int64(p) < int64(len(policyNames)) {
		return policyNames[p]
	}
	return fmt.Sprintf("SplitBrainPolicy(%d)", uint32(p))
}

// Mirror returns the value the peer must have: discard-local pairs with
// discard-remote, every other one with itself (spec: behaviour 4.2).
func (p SplitBrainPolicy) Mirror() SplitBrainPolicy {
	switch p {
	case PolicyDiscardLocal:
		return PolicyDiscardRemote
	case PolicyDiscardRemote:
		return PolicyDiscardLocal
	}
	return p
}

// RRConflict is the option rr-conflict: what to do if the identifiers would make a
// Primary the target of a resync. It is not compared with the peer's.
type RRConflict uint8

// The values of rr-conflict (spec: behaviour 3.6).
const (
	RRDisconnect  RRConflict = iota // refuse
	RRCallPriLost                   // call the handler pri-lost, refuse
	RRViolently                     // overwrite the data under the running application
)

// String returns the name as drbd.conf spells it.
func (r RRConflict) String() string {
	switch r {
	case RRDisconnect:
		return "disconnect"
	case RRCallPriLost:
		return "call-pri-lost"
	case RRViolently:
		return "violently"
	}
	return fmt.Sprintf("RRConflict(%d)", uint8(r))
}

// Policies are the options that decide what becomes of a split brain. The zero
// value is DRBD's default: never decide, disconnect.
type Policies struct {
	// AfterSB0Pri applies if no node is Primary now: disconnect or any of the
	// discard-… values except discard-secondary.
	AfterSB0Pri SplitBrainPolicy
	// AfterSB1Pri applies if one node is: disconnect, consensus,
	// violently-as0p, discard-secondary or call-pri-lost-after-sb.
	AfterSB1Pri SplitBrainPolicy
	// AfterSB2Pri applies if both are: disconnect, violently-as0p or
	// call-pri-lost-after-sb.
	AfterSB2Pri SplitBrainPolicy
	// AlwaysASBP lets the policies also decide where at best an old generation
	// is common (R100); the resync is a full one then.
	AlwaysASBP bool
	RRConflict RRConflict
}

// Errors about policies.
var (
	// ErrInvalidPolicy says that an option has a value it cannot have.
	ErrInvalidPolicy = errors.New("metadata: invalid split-brain policy")
	// ErrPolicyMismatch says that the two nodes are configured differently.
	ErrPolicyMismatch = errors.New("metadata: split-brain policies of the two nodes differ")
)

func valid0Pri(p SplitBrainPolicy) bool { return p <= PolicyDiscardRemote }

func valid1Pri(p SplitBrainPolicy) bool {
	return p == PolicyDisconnect || p >= PolicyConsensus && p <= PolicyViolently
}

func valid2Pri(p SplitBrainPolicy) bool {
	return p == PolicyDisconnect || p == PolicyCallPriLost || p == PolicyViolently
}

// Validate returns an error that matches ErrInvalidPolicy and names the option if
// one of them has a value it cannot have. Decide treats such a value as disconnect.
func (p Policies) Validate() error {
	switch {
	case !valid0Pri(p.AfterSB0Pri):
		return fmt.Errorf("%w: after-sb-0pri cannot be %v", ErrInvalidPolicy, p.AfterSB0Pri)
	case !valid1Pri(p.AfterSB1Pri):
		return fmt.Errorf("%w: after-sb-1pri cannot be %v", ErrInvalidPolicy, p.AfterSB1Pri)
	case !valid2Pri(p.AfterSB2Pri):
		return fmt.Errorf("%w: after-sb-2pri cannot be %v", ErrInvalidPolicy, p.AfterSB2Pri)
	case p.RRConflict > RRViolently:
		return fmt.Errorf("%w: rr-conflict cannot be %v", ErrInvalidPolicy, p.RRConflict)
	}
	return nil
}

// MatchPeer returns an error that matches ErrPolicyMismatch if the peer's P_PROTOCOL
// announces other after-sb policies than those that go with ours (spec: behaviour
// 4.2). The nodes must not connect then: they could decide differently.
func (p Policies) MatchPeer(peer0, peer1, peer2 SplitBrainPolicy) error {
	for _, o := range [...]struct {
		option    string
		own, peer SplitBrainPolicy
	}{
		{"after-sb-0pri", p.AfterSB0Pri, peer0},
		{"after-sb-1pri", p.AfterSB1Pri, peer1},
		{"after-sb-2pri", p.AfterSB2Pri, peer2},
	} {
		if o.own.Mirror() != o.peer {
			return fmt.Errorf("%w: %s is %v here and %v at the peer: configure both nodes alike",
				ErrPolicyMismatch, o.option, o.own, o.peer)
		}
	}
	return nil
}

// winner says whose data stays. The zero value: undecided.
type winner int8

const (
	nobody   winner = 0
	thisNode winner = +1
	peerNode winner = -1
)

func (w winner) String() string {
	if w == nobody {
		return w.whose()
	}
	return w.whose() + " stays"
}

// whose is the short form.
func (w winner) whose() string {
	switch w {
	case thisNode:
		return "this node's data"
	case peerNode:
		return "the peer's data"
	}
	return "undecided"
}

// after0Pri applies after-sb-0pri (spec: behaviour 4.3).
func after0Pri(p SplitBrainPolicy, in CompareInput) winner {
	own, peer := in.Own.IDs.Bitmap.IsPrimary(), in.Peer.IDs.Bitmap.IsPrimary()
	switch p {
	case PolicyDiscardYoungerPrimary:
		// PrimaryBit is set for the node that was Primary when contact was
		// lost: the older one. Undecided, fewer changes lose.
		if own != peer {
			return choose(own)
		}
		return leastChanges(in)
	case PolicyDiscardOlderPrimary:
		if own != peer {
			return choose(peer)
		}
		return leastChanges(in)
	case PolicyDiscardZeroChanges:
		if in.Own.BitmapBits != 0 && in.Peer.BitmapBits != 0 {
			return nobody
		}
		return leastChanges(in)
	case PolicyDiscardLeastChanges:
		return leastChanges(in)
	case PolicyDiscardLocal:
		return peerNode
	case PolicyDiscardRemote:
		return thisNode
	}
	return nobody
}

func choose(own bool) winner {
	if own {
		return thisNode
	}
	return peerNode
}

// leastChanges lets the node with more out-of-sync blocks win; in a tie the
// resolver loses.
func leastChanges(in CompareInput) winner {
	if own, peer := in.Own.BitmapBits, in.Peer.BitmapBits; own != peer {
		return choose(own > peer)
	}
	return choose(!in.Resolver)
}

// ruling is what the policies made of a split brain.
type ruling struct {
	option   string           // the option consulted, "after-sb-0pri", -1pri or -2pri
	policy   SplitBrainPolicy // its value
	proposed winner           // what after-sb-0pri, or discard-secondary, says
	final    winner           // after the roles had their say
	loser    bool             // this node is Primary and has to demote before it may lose
}

// consult applies the policy for the number of nodes that are Primary now.
func consult(p Policies, in CompareInput) ruling {
	own, peer := in.Own.Primary, in.Peer.Primary
	switch {
	case own && peer:
		r := ruling{option: "after-sb-2pri", policy: p.AfterSB2Pri}
		if valid2Pri(r.policy) {
			r.byRoles(p, in)
		}
		return r
	case own || peer:
		r := ruling{option: "after-sb-1pri", policy: p.AfterSB1Pri}
		if valid1Pri(r.policy) {
			r.byRoles(p, in)
		}
		return r
	}
	w := after0Pri(p.AfterSB0Pri, in)
	return ruling{option: "after-sb-0pri", policy: p.AfterSB0Pri, proposed: w, final: w}
}

// byRoles applies the values that look at the roles.
func (r *ruling) byRoles(p Policies, in CompareInput) {
	switch r.policy {
	case PolicyDiscardSecondary:
		r.proposed = choose(in.Own.Primary)
		r.final = r.proposed
	case PolicyConsensus:
		r.proposed = after0Pri(p.AfterSB0Pri, in)
		if r.proposed == choose(in.Own.Primary) {
			r.final = r.proposed
		}
	case PolicyViolently:
		r.proposed = after0Pri(p.AfterSB0Pri, in)
		r.final = r.proposed
	case PolicyCallPriLost:
		r.proposed = after0Pri(p.AfterSB0Pri, in)
		r.final = r.proposed
		r.loser = r.final == peerNode && in.Own.Primary
	}
}

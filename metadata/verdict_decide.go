// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import "fmt"

// DecideInput is everything the sync handshake depends on.
type DecideInput struct {
	CompareInput

	// OwnDisk is the own disk state. KeptDisk is looked at only if that is
	// DiskNegotiating: the state that attach computed from the metadata.
	OwnDisk, KeptDisk DiskState
	// PeerDisk is the peer's disk as its P_STATE reports it. DiskNegotiating is
	// taken as Inconsistent or Consistent by FlagInconsistent of Peer.Flags.
	PeerDisk DiskState

	Policies Policies
	// CanDemote says that this node, if it is Primary, would succeed in
	// becoming Secondary now: not open, nothing in flight, no state change under
	// way. DRBD's kernel never does during a handshake (spec: behaviour 4.3).
	CanDemote bool

	// OwnDryRun and PeerDryRun are the tentative flags of the two nodes.
	OwnDryRun, PeerDryRun bool
}

// Action is what the volume, or the connection, does next.
type Action uint8

// The actions. The last four are ways to refuse (spec: behaviour 2.9, rule 7).
const (
	ActConnected      Action = iota // go Connected, nothing is copied
	ActBecomeSource                 // go WFBitMapS
	ActBecomeTarget                 // go WFBitMapT
	ActFailAttach                   // own disk was attaching: own disk to Failed, the connection lives
	ActPeerAttachFail               // peer's disk was attaching: take it as Diskless, the connection lives
	ActReconnect                    // the peer asked for a dry run: drop the connection and try again
	ActStandAlone                   // drop the connection and stay StandAlone
)

var actionNames = [...]string{
	"Connected", "become sync source", "become sync target", "fail the attach",
	"take the peer as Diskless", "drop the connection and reconnect", "drop to StandAlone",
}

// String returns a few plain words.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// Refusal is why a handshake was refused.
type Refusal uint8

// The reasons.
const (
	NotRefused                Refusal = iota
	RefusedByIdentifiers              // Unrelated, NeedProtocol91, NeedWriteSame, BothZero, Contradictory
	RefusedSplitBrain                 // no policy solved it and nobody gives up changes
	RefusedInconsistentSource         // this node would be source, but has no consistent data
	RefusedPrimaryTarget              // rr-conflict: this node would be target, but is Primary
	RefusedDryRun                     // it would have worked
)

var refusalNames = [...]string{
	"not refused", "the identifiers forbid it", "split brain", "no consistent data here to copy from",
	"this node is Primary and would be overwritten", "dry run",
}

// String returns a few plain words.
func (r Refusal) String() string {
	if int(r) < len(refusalNames) {
		return refusalNames[r]
	}
	return fmt.Sprintf("Refusal(%d)", uint8(r))
}

// Decider is what had the last word on the direction.
type Decider uint8

// The deciders, in the order in which they are asked.
const (
	ByIdentifiers   Decider = iota
	ByDiskStates            // one disk is Inconsistent, the other is better
	ByPolicy                // after-sb-0pri, -1pri or -2pri
	ByDiscardMyData         // the operator named the node whose changes go
)

// Handler is a user's program, or callback, by DRBD's name for it.
type Handler string

// The handlers that a handshake may call.
const (
	HandlerInitialSplitBrain Handler = "initial-split-brain" // its result is ignored
	HandlerSplitBrain        Handler = "split-brain"         // nothing solved it
	HandlerPriLostAfterSB    Handler = "pri-lost-after-sb"   // this Primary lost and could not demote
	HandlerPriLost           Handler = "pri-lost"            // rr-conflict=call-pri-lost
)

// Decision is the result of the sync handshake on this node.
type Decision struct {
	Verdict Verdict
	// Outcome is what the disk states, the policies and discard-my-data made of
	// Verdict.Outcome. After a refusal it is what was refused.
	Outcome Outcome
	Action  Action
	// FullSync, of a source or target: set all bits on stable storage first,
	// guarded by the flag FullSync, then exchange bitmaps.
	FullSync  bool
	Refusal   Refusal
	DecidedBy Decider
	// Demote: this Primary lost by call-pri-lost-after-sb and has to become
	// Secondary before it goes on. Only with CanDemote.
	Demote bool
	// Handlers to call, in this order, before Action is carried out.
	Handlers []Handler
	// Log has the lines to log, in this order, in the kernel's words where
	// people grep for them (spec: behaviour 9.7).
	Log []string

	in     DecideInput
	ruling ruling // zero if no policy was asked
}

// Decide runs the sync handshake of one volume: it compares, lets disk states,
// policies and discard-my-data have their say, and says what to do (spec: behaviour
// 3.6, 4.1 to 4.5). Both nodes run it, each for itself. Where neither refuses they
// come to mirrored actions, given policies that MatchPeer accepts; where only one
// refuses, it has to drop the connection.
//
// Verdict.CorrectedOwn and CorrectedPeer hold whatever the decision is. Decide is
// pure: the caller calls handlers, demotes, logs.
func Decide(in DecideInput) Decision {
	d := Decision{Verdict: Compare(in.CompareInput), in: in}
	d.Outcome = d.Verdict.Outcome
	d.logf("self %s", in.Own)
	d.logf("peer %s", in.Peer)
	d.logf("%s", d.Verdict.LogLine())
	d.act(d.settle())
	return d
}

// settle finds the outcome and says why it is refused, if it is.
func (d *Decision) settle() Refusal {
	own, peer := d.in.ownDisk(), d.in.peerDisk()
	switch d.Outcome {
	case Unrelated, NeedProtocol91, NeedWriteSame, BothZero, Contradictory:
		d.logf("%s", d.Verdict.Sentence())
		if d.Outcome != Contradictory || (own == DiskInconsistent) == (peer == DiskInconsistent) {
			return RefusedByIdentifiers
		}
		// The newer data was given up, and the resync from the older was broken
		// off: the target has the name of that resync, and the source's in its past.
	}
	d.overrideByDisks(own, peer)
	if d.Outcome.IsSplitBrain() {
		d.splitBrain()
	}
	switch {
	case d.Outcome.IsSplitBrain():
		d.logf("Split-Brain detected but unresolved, dropping connection!")
		d.call(HandlerSplitBrain)
		return RefusedSplitBrain
	case d.Outcome.IsSource() && own <= DiskInconsistent:
		d.logf("Would become sync source, but the own disk is %v: refused.", own)
		return RefusedInconsistentSource
	case d.Outcome.IsTarget() && d.in.Own.Primary && !d.Demote && d.in.OwnDisk >= DiskConsistent:
		if !d.primaryMayLose() {
			return RefusedPrimaryTarget
		}
	}
	if d.in.OwnDryRun || d.in.PeerDryRun {
		d.logf("Dry run: would be %v.", d.Outcome)
		return RefusedDryRun
	}
	return NotRefused
}

// ownDisk is the own disk, seen through an attach under way.
func (in DecideInput) ownDisk() DiskState {
	if in.OwnDisk == DiskNegotiating {
		return in.KeptDisk
	}
	return in.OwnDisk
}

// peerDisk is the peer's disk, seen through an attach under way (spec: behaviour 2.8).
func (in DecideInput) peerDisk() DiskState {
	switch {
	case in.PeerDisk != DiskNegotiating:
		return in.PeerDisk
	case in.Peer.Flags&FlagInconsistent != 0:
		return DiskInconsistent
	}
	return DiskConsistent
}

// overrideByDisks makes the better disk the source if the other is Inconsistent.
func (d *Decision) overrideByDisks(own, peer DiskState) {
	var o Outcome
	switch {
	case peer == DiskInconsistent && own > DiskInconsistent:
		o = SourceUseBitmap
		d.logf("Disk states decide: becoming sync source.")
	case own == DiskInconsistent && peer > DiskInconsistent:
		o = TargetUseBitmap
		d.logf("Disk states decide: becoming sync target.")
	default:
		return
	}
	if d.Outcome.IsFull() || d.Outcome == SplitBrainManual || d.Outcome == Contradictory {
		o = o.full()
	}
	if o != d.Outcome {
		d.DecidedBy = ByDiskStates
	}
	d.Outcome = o
}

// splitBrain asks the policies, then discard-my-data.
func (d *Decision) splitBrain() {
	found := d.Outcome
	d.call(HandlerInitialSplitBrain)
	w := nobody
	if found == SplitBrain || d.in.Policies.AlwaysASBP {
		d.ruling = consult(d.in.Policies, d.in.CompareInput)
		w = d.ruling.final
		switch {
		case d.contested():
			w = nobody
		case d.ruling.loser && d.in.CanDemote:
			d.Demote = true
		case d.ruling.loser:
			d.call(HandlerPriLostAfterSB)
			w = nobody
		}
		d.logf("%s=%v: %v", d.ruling.option, d.ruling.policy, w)
		d.DecidedBy = ByPolicy
	}
	if w == nobody {
		if w = d.discardMyData(); w == nobody {
			d.DecidedBy = ByIdentifiers
			return
		}
		d.logf("Split brain solved by discard-my-data: %v", w)
		d.DecidedBy = ByDiscardMyData
	}
	d.Outcome = TargetUseBitmap
	if w == thisNode {
		d.Outcome = SourceUseBitmap
	}
	if found == SplitBrainManual {
		// The bitmaps may not reach back to the common generation. DRBD
		// trusts them after discard-my-data; we copy every block, which a
		// DRBD peer goes along with, because bitmaps are exchanged and joined.
		d.Outcome = d.Outcome.full()
	}
}

// contested reports whether call-pri-lost-after-sb makes a Primary lose to a node that
// is itself told to discard its data. If that Primary cannot demote, discard-my-data
// would make it the source while the other node counts on being that. So both leave it
// to discard-my-data at once, which is where DRBD's Primary ends too.
func (d *Decision) contested() bool {
	r := &d.ruling
	loserIsPrimary := r.final == peerNode && d.in.Own.Primary || r.final == thisNode && d.in.Peer.Primary
	return r.policy == PolicyCallPriLost && loserIsPrimary && d.discardMyData() == -r.final
}

// discardMyData looks at the flag that one of the nodes, not both, may carry.
func (d *Decision) discardMyData() winner {
	own, peer := d.in.Own.Flags&FlagDiscardMyData != 0, d.in.Peer.Flags&FlagDiscardMyData != 0
	if own == peer {
		return nobody
	}
	return choose(peer)
}

// primaryMayLose applies rr-conflict.
func (d *Decision) primaryMayLose() bool {
	switch d.in.Policies.RRConflict {
	case RRViolently:
		d.logf("Primary becomes sync target: rr-conflict is %v, its data changes under its users!", RRViolently)
		return true
	case RRCallPriLost:
		d.call(HandlerPriLost)
	}
	d.logf("Would become sync target, but this node is Primary: refused.")
	return false
}

// act turns outcome and refusal into what to do.
func (d *Decision) act(r Refusal) {
	d.Refusal = r
	switch {
	case r != NotRefused:
		d.Demote = false
		switch {
		case d.in.OwnDisk == DiskNegotiating:
			d.Action = ActFailAttach
		case d.in.PeerDisk == DiskNegotiating:
			d.Action = ActPeerAttachFail
		case d.in.PeerDryRun:
			d.Action = ActReconnect
		default:
			d.Action = ActStandAlone
		}
	case d.Outcome.IsSource():
		d.Action, d.FullSync = ActBecomeSource, d.Outcome.IsFull()
	case d.Outcome.IsTarget():
		d.Action, d.FullSync = ActBecomeTarget, d.Outcome.IsFull()
	default:
		d.Action = ActConnected
		if n := d.in.Own.BitmapBits; n != 0 {
			d.logf("Nothing to copy by the identifiers, yet %d bits are set in the bitmap.", n)
		}
	}
}

func (d *Decision) call(h Handler) {
	d.Handlers = append(d.Handlers, h)
	d.logf("helper command: %s", h)
}

func (d *Decision) logf(format string, args ...any) {
	d.Log = append(d.Log, fmt.Sprintf(format, args...))
}

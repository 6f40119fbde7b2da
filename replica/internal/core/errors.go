// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"errors"
	"fmt"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// Sentinels that errors.Is finds in what the core returns. Package replica
// exports them under the same names. They come wrapped with what was being
// done; the message of each says what the user can do.
var (
	// ErrConfig: a field of the configuration cannot be.
	ErrConfig = errors.New("invalid configuration")

	// ErrClosed: the resource was shut down.
	ErrClosed = errors.New("the resource is closed; open it again")
	// ErrInternal: the state machine broke one of its own rules and was stopped.
	ErrInternal = errors.New("internal error, the resource was stopped; please report the log with its stack trace")

	// ErrNotPrimary: application I/O on a Secondary (spec: behaviour 1.2).
	ErrNotPrimary = errors.New("this node is not Primary; promote it first")
	// ErrNoUpToDateData: neither the own disk nor a connected peer's is
	// UpToDate (spec: behaviour V4, V6, V13, 5.2, 5.7).
	ErrNoUpToDateData = errors.New("no UpToDate data is reachable; connect the peer, attach a good disk, or promote with force to declare the own data good")
	// ErrDiskless: the operation needs a disk of this node (spec: behaviour T7, X3).
	ErrDiskless = errors.New("this node has no disk for the volume; attach one")
	// ErrAttached: the volume already has a disk (spec: behaviour 10.4, 124).
	ErrAttached = errors.New("a disk is already attached; detach it first")
	// ErrStandAlone: the operation needs a connection (spec: behaviour T3, X9, X11).
	ErrStandAlone = errors.New("not connected to the peer; connect first")
	// ErrInterrupted: the caller has given up.
	ErrInterrupted = errors.New("interrupted")
	// ErrConnected: the operation needs this node to be StandAlone (spec:
	// behaviour 10.4, 125 and 151).
	ErrConnected = errors.New("the node is not StandAlone; disconnect first")
	// ErrSuspended: I/O is suspended, and does not wait for that to end (spec: behaviour 5.10).
	ErrSuspended = errors.New("I/O is suspended; bring good data into reach, or fence the peer, or resume I/O")
	// ErrNoQuorum: the arbiter did not let this node go on without its peer.
	ErrNoQuorum = errors.New("the arbiter did not allow this node to go on without its peer; connect the peer, or promote with force if it is certain that the peer is down")
	// ErrArbiterUnreachable: the arbiter gave no answer; found together with ErrNoQuorum.
	ErrArbiterUnreachable = errors.New("the arbiter gave no answer; see why, it is asked again")
	// ErrHandler: a handler refused to go on.
	ErrHandler = errors.New("a handler refused; see its exit code in the log, then connect again")
	// ErrInUse: the volume is open, or requests are still running.
	ErrInUse = errors.New("the volume is in use; close its users first")

	// ErrSplitBrain: the data of the two nodes diverged and no policy solved it
	// (spec: behaviour 4.3, 4.4).
	ErrSplitBrain = errors.New("split brain: both nodes changed their data while apart; pick the node whose changes are lost, demote it, and connect it with discard-my-data")
	// ErrUnrelated: the two disks have no common history (spec: behaviour 3.5, R100).
	ErrUnrelated = errors.New("the two disks hold unrelated data; check that this is the right peer, or create fresh metadata on the node whose data is to be replaced")
	// ErrIncompatible: the two nodes' configurations or versions do not fit
	// together (spec: behaviour 4.2, wire 1.6).
	ErrIncompatible = errors.New("the peer's settings do not fit; make them equal on both nodes")
	// ErrCongested: the link is too slow for what the application writes, and
	// on-congestion says to leave the peer (spec: behaviour 5.12).
	ErrCongested = errors.New("the link to the peer is congested; connect again when it is faster, or choose another on-congestion")
	// ErrAuthentication: the peer did not prove that it knows the shared secret.
	ErrAuthentication = errors.New("the peer was not authenticated; configure the same cram-hmac-alg and shared secret on both nodes")
	// ErrDataStale: the disk does not hold the data that the application sees
	// already (spec: behaviour 2.8; 10.4, 150).
	ErrDataStale = errors.New("the disk holds other data than the application has seen; demote first")
	// ErrShrink: the volume would become smaller (spec: behaviour 6.10; 10.4, 111 and 170).
	ErrShrink = errors.New("the volume would shrink; set its size explicitly if that is meant")

	// ErrDiskTimeout: a disk has not answered within disk-timeout (spec: behaviour 5.8).
	ErrDiskTimeout = errors.New("the disk does not answer; it was detached, attach it again, or another, when it is well")
	// ErrHung: requests of before are still in the disk.
	ErrHung = errors.New("a disk does not answer")

	// ErrIO: a disk failed and no other copy could serve the request.
	ErrIO = errors.New("I/O error on every copy that could serve the request; see the log for the disk's own error")
	// ErrRange: the request does not lie inside the volume.
	ErrRange = errors.New("the request is outside the volume")
	// ErrConnectionLost: the connection ended before the operation did.
	ErrConnectionLost = errors.New("the connection to the peer was lost; try again")

	// ErrRefused matches every RefusedError.
	ErrRefused = errors.New("the state change was refused")
)

// RefusedError is a state change that was refused, here or by the peer. It
// matches ErrRefused, its Code (a protocol.Code is an error), and the sentinel
// that means the same, if there is one.
type RefusedError struct {
	Doing  string        // what was asked, as "promote"
	Code   protocol.Code // why; below 1
	ByPeer bool          // the peer refused it
}

// Error says what was refused, by whom and why.
func (e *RefusedError) Error() string {
	who := "refused"
	if e.ByPeer {
		who = "refused by the peer"
	}
	if hint := sentinelOf(e.Code); hint != nil {
		return fmt.Sprintf("%s: %s (%d): %s: %s", e.Doing, who, int32(e.Code), e.Code, hint)
	}
	return fmt.Sprintf("%s: %s (%d): %s", e.Doing, who, int32(e.Code), e.Code)
}

// Unwrap returns what errors.Is is to find.
func (e *RefusedError) Unwrap() []error {
	errs := []error{ErrRefused, e.Code}
	if s := sentinelOf(e.Code); s != nil {
		errs = append(errs, s)
	}
	return errs
}

// sentinelOf returns the sentinel that means the same as a code, or nil.
func sentinelOf(c protocol.Code) error {
	switch c {
	case protocol.CodeNoUpToDateDisk:
		return ErrNoUpToDateData
	case protocol.CodeNoLocalDisk, protocol.CodeDiskless:
		return ErrDiskless
	case protocol.CodeDeviceInUse:
		return ErrInUse
	case protocol.CodeNeedConnection, protocol.CodeNoNetConfig, protocol.CodeNeedConnectionOutdate, protocol.CodeAlreadyStandAlone:
		return ErrStandAlone
	}
	return nil
}

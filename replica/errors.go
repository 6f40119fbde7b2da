// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"errors"

	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Sentinel errors. What this package returns wraps one of them where it fits,
// together with the operation, the resource and the volume; find them with
// errors.Is. Context errors (context.Canceled, context.DeadlineExceeded) and
// errors of devices are wrapped too.
var (
	// ErrConfig: a field of the configuration cannot be.
	ErrConfig = core.ErrConfig

	// ErrClosed: the resource was closed.
	ErrClosed = core.ErrClosed
	// ErrInternal: the resource broke one of its own rules and stopped itself.
	// The data on disk is as after a crash: open the resource again.
	ErrInternal = core.ErrInternal
	// ErrHung: a disk did not answer within the time that Shutdown was given.
	// The resource is closed, but the device and the buffers of the requests
	// that hang are still in use until the device answers. From Attach: so is the
	// device that is to be attached.
	ErrHung = core.ErrHung
	// ErrDiskTimeout: a disk has not answered within VolumeConfig.DiskTimeout.
	ErrDiskTimeout = core.ErrDiskTimeout

	// ErrNotPrimary: I/O on a Secondary. Promote it.
	ErrNotPrimary = core.ErrNotPrimary
	// ErrNoUpToDateData: no good copy of the data is reachable.
	ErrNoUpToDateData = core.ErrNoUpToDateData
	// ErrDiskless: the operation needs a disk of this node.
	ErrDiskless = core.ErrDiskless
	// ErrAttached: the volume already has a disk.
	ErrAttached = core.ErrAttached
	// ErrStandAlone: the operation needs a connection.
	ErrStandAlone = core.ErrStandAlone
	// ErrConnected: the operation needs a node without connection.
	ErrConnected = core.ErrConnected
	// ErrSuspended: I/O is suspended, and Config.SuspendLimit or FailIO ended the wait.
	ErrSuspended = core.ErrSuspended
	// ErrNoQuorum: the Arbiter did not let this node go on without its peer.
	ErrNoQuorum = core.ErrNoQuorum
	// ErrArbiterUnreachable: it gave no answer; found together with ErrNoQuorum.
	ErrArbiterUnreachable = core.ErrArbiterUnreachable
	// ErrHandler: a handler refused a resync.
	ErrHandler = core.ErrHandler
	// ErrWaitTimeout: one of the WaitTimeouts has passed.
	ErrWaitTimeout = errors.New("the peer, or the end of the resync, did not come in time")
	// ErrInUse: the volume is in use.
	ErrInUse = core.ErrInUse
	// ErrConnectionLost: the connection ended before the operation did.
	ErrConnectionLost = core.ErrConnectionLost

	// ErrSplitBrain: the data of the nodes diverged (spec: behaviour 4). Both
	// nodes are StandAlone. Pick the victim, demote it, connect it with
	// DiscardMyData, and connect the other one.
	ErrSplitBrain = core.ErrSplitBrain
	// ErrUnrelated: the disks have no common history.
	ErrUnrelated = core.ErrUnrelated
	// ErrIncompatible: settings or versions of the nodes do not fit together.
	ErrIncompatible = core.ErrIncompatible
	// ErrCongested: PeerConfig.OnCongestion made this node leave the peer.
	ErrCongested = core.ErrCongested
	// ErrAuthentication: the peer does not know the shared secret.
	ErrAuthentication = core.ErrAuthentication
	// ErrDataStale: the disk to be attached holds other data than the
	// application has seen already.
	ErrDataStale = core.ErrDataStale
	// ErrShrink: the volume would become smaller than it was.
	ErrShrink = core.ErrShrink

	// ErrRefused: a state change was refused, here or by the peer. errors.Is
	// finds the reason too, which is a protocol.Code; errors.As finds a
	// *RefusedError.
	ErrRefused = core.ErrRefused

	// ErrIO: every copy that could serve the request failed.
	ErrIO = core.ErrIO
	// ErrRange: the request does not lie inside the volume.
	ErrRange = core.ErrRange
	// ErrAlignment: offset or length is not a multiple of 512 bytes.
	ErrAlignment = blockdev.ErrAlignment

	// ErrMetadataExists: CreateMetadata found metadata.
	ErrMetadataExists = errors.New("the disk has metadata already; use Force to overwrite it, which forgets what is out of sync")
)

// RefusedError is a state change that was refused, with DRBD's code for the reason.
type RefusedError = core.RefusedError

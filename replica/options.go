// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import "github.com/go-blockmirror/blockmirror/replica/internal/core"

// PromoteOption is a rare variant of [Resource.Promote].
type PromoteOption interface{ promote(*promoteOptions) }

// ConnectOption is a rare variant of [Resource.Connect].
type ConnectOption interface{ connect(*core.ConnectOptions) }

// DisconnectOption is a rare variant of [Resource.Disconnect].
type DisconnectOption interface{ disconnect(*disconnectOptions) }

// DetachOption is a rare variant of [Volume.Detach].
type DetachOption interface{ detach(*detachOptions) }

// CreateOption is a rare variant of [CreateMetadata].
type CreateOption interface{ create(*createOptions) }

// NewUUIDOption is a rare variant of [Volume.NewCurrentUUID].
type NewUUIDOption interface{ newUUID(*newUUIDOptions) }

type (
	promoteOptions    struct{ force bool }
	disconnectOptions struct{ force bool }
	detachOptions     struct{ force bool }
	newUUIDOptions    struct{ clearBitmap bool }
)

// ForceOption is what Force returns. It goes with Promote, Disconnect, Detach
// and CreateMetadata.
type ForceOption struct{}

// Force insists:
//
//   - Promote declares the own data good although it may be old or incomplete.
//     It begins the life of a new pair, and it makes a split brain if the peer
//     is doing the same.
//   - Disconnect does not ask the peer, who sees a broken connection.
//   - Detach does not wait for disk requests that hang.
//   - CreateMetadata overwrites metadata that exists.
func Force() ForceOption { return ForceOption{} }

func (ForceOption) promote(o *promoteOptions)       { o.force = true }
func (ForceOption) disconnect(o *disconnectOptions) { o.force = true }
func (ForceOption) detach(o *detachOptions)         { o.force = true }
func (ForceOption) create(o *createOptions)         { o.force = true }

type connectOption func(*core.ConnectOptions)

func (f connectOption) connect(o *core.ConnectOptions) { f(o) }

// DiscardMyData makes this node the victim if the connection meets a split
// brain: its changes since then are overwritten by the peer's. It is for one
// connection, the first that gets as far as a resync or needs none, and not for a
// Primary: a promotion ends it (spec: behaviour 4.4).
func DiscardMyData() ConnectOption {
	return connectOption(func(o *core.ConnectOptions) { o.DiscardMyData = true })
}

// Tentative only finds out what a connection would do: the verdict is published
// as an event and logged, then this node goes back to StandAlone.
func Tentative() ConnectOption {
	return connectOption(func(o *core.ConnectOptions) { o.Tentative = true })
}

type newUUIDOption func(*newUUIDOptions)

func (f newUUIDOption) newUUID(o *newUUIDOptions) { f(o) }

// ClearBitmap also marks everything as in sync. On a connected pair of fresh
// disks it skips the initial sync (spec: behaviour 3.4).
func ClearBitmap() NewUUIDOption {
	return newUUIDOption(func(o *newUUIDOptions) { o.clearBitmap = true })
}

// ZeroOption is a rare variant of [Volume.WriteZeroes].
type ZeroOption interface{ zero(*ioFlags) }

type zeroOption func(*ioFlags)

func (f zeroOption) zero(o *ioFlags) { f(o) }

// MayUnmap lets WriteZeroes deallocate the range.
func MayUnmap() ZeroOption {
	return zeroOption(func(o *ioFlags) { o.mayUnmap = true })
}

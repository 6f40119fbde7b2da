// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"
	"slices"

	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// The administrator's commands.

// command is one of them in progress, with its waiter.
type command struct {
	cmd  core.Command
	done chan struct{}
}

// command runs start and waits for the end of the command. It is refused while the
// resource is being closed.
func (r *Resource) command(ctx context.Context, doing string, start func(*core.Core, *core.Command)) error {
	r.mu.Lock()
	if err := r.refusal(); err != nil {
		r.mu.Unlock()
		return r.explain(doing, err)
	}
	return r.explain(doing, r.runCommand(ctx, start))
}

// runCommand is command without the question. It is called under the lock, and
// releases it. If ctx ends first the command is given up: what it has done stays, and it
// begins nothing more.
func (r *Resource) runCommand(ctx context.Context, start func(*core.Core, *core.Command)) error {
	cmd := &command{done: make(chan struct{})}
	err := r.awaitCommand(ctx, cmd, start)
	if isClosed(cmd.done) || ctx.Err() == nil {
		return err
	}
	r.mu.Lock()
	if isClosed(cmd.done) {
		r.mu.Unlock()
		return cmd.cmd.Err
	}
	w := newWork()
	r.step(w, func(c *core.Core) { c.Abandon(&cmd.cmd, context.Cause(ctx)) })
	r.mu.Unlock()
	w.loop(r)
	return err
}

// awaitCommand starts a command of the caller's, and waits for its end or that of ctx. It
// is called under the lock, and releases it.
func (r *Resource) awaitCommand(ctx context.Context, cmd *command, start func(*core.Core, *core.Command)) error {
	cmd.cmd.User = cmd
	r.commands = append(r.commands, cmd)
	w := newWork()
	r.step(w, func(c *core.Core) { start(c, &cmd.cmd) })
	r.mu.Unlock()
	w.loop(r)
	select {
	case <-cmd.done:
		return cmd.cmd.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// explain wraps an error with what was being done.
func (r *Resource) explain(doing string, err error) error {
	if err == nil || doing == "" {
		return err
	}
	return fmt.Errorf("replica: %s: %s: %w", r.name, doing, err)
}

// finishCommand ends a command. It is called under the lock.
func (r *Resource) finishCommand(cmd *command, err error) {
	i := slices.Index(r.commands, cmd)
	if i < 0 {
		return
	}
	r.commands = slices.Delete(r.commands, i, i+1)
	cmd.cmd.Err = err
	close(cmd.done)
}

// Connect leaves StandAlone: from now on this node looks for the peer, and for a
// new connection whenever one is lost. It returns when it has begun to look; see
// [Resource.WaitConnected]. Options: DiscardMyData, Tentative. Errors:
// ErrConnected, ErrConfig (no Transport), ErrRefused, ErrClosed.
func (r *Resource) Connect(ctx context.Context, opts ...ConnectOption) error {
	var o core.ConnectOptions
	for _, opt := range opts {
		opt.connect(&o)
	}
	if len(r.cfg.Peers) == 0 || r.cfg.Peers[0].Transport == nil {
		return r.explain("connect", fmt.Errorf("%w: no peer with a Transport is configured", ErrConfig))
	}
	return r.command(ctx, "connect", func(c *core.Core, cmd *core.Command) {
		r.lastLoss[0] = nil
		c.Connect(cmd, 0, o)
	})
}

// Disconnect goes to StandAlone and stays there until Connect. The peer is told,
// and goes on looking for this node. With a Fencing other than DontCare the Secondary
// of the two outdates its disk, so that nobody has to be fenced. Options: Force.
func (r *Resource) Disconnect(ctx context.Context, opts ...DisconnectOption) error {
	var o disconnectOptions
	for _, opt := range opts {
		opt.disconnect(&o)
	}
	return r.command(ctx, "disconnect", func(c *core.Core, cmd *core.Command) {
		r.lastLoss[0] = nil
		c.Disconnect(cmd, 0, o.force)
	})
}

// Promote makes this node Primary: its volumes can be read and written. Refusals
// match ErrRefused and say why; ErrNoUpToDateData asks for a connection, or for
// Force. While connected the peer is asked; else the Arbiter, if there is one
// (ErrNoQuorum), and the Fencer, if the policy demands it. A node that is Primary
// already changes nothing; with Force it declares the own data good if the peer is
// connected, and both disks are Inconsistent because both have passed on an error.
func (r *Resource) Promote(ctx context.Context, opts ...PromoteOption) error {
	var o promoteOptions
	for _, opt := range opts {
		opt.promote(&o)
	}
	return r.command(ctx, "promote", func(c *core.Core, cmd *core.Command) { c.Promote(cmd, o.force) })
}

// Demote makes this node Secondary, after all writes have been acknowledged.
func (r *Resource) Demote(ctx context.Context) error {
	return r.command(ctx, "demote", func(c *core.Core, cmd *core.Command) { c.Demote(cmd) })
}

// SuspendIO holds all requests of the application until ResumeIO. It returns when
// no write is in flight any more: then both disks are still.
func (r *Resource) SuspendIO(ctx context.Context) error {
	return r.command(ctx, "suspend I/O", func(c *core.Core, cmd *core.Command) { c.SetSuspended(cmd, true) })
}

// ResumeIO ends SuspendIO, and every other reason for which I/O is suspended: this node
// goes on with what it has. Requests that were under way end by their own results; if
// nobody could serve them they fail. Where the peer was lost a new data generation begins,
// also if the peer is not fenced and the arbiter has not agreed: be sure that it is down.
func (r *Resource) ResumeIO(ctx context.Context) error {
	return r.command(ctx, "resume I/O", func(c *core.Core, cmd *core.Command) { c.SetSuspended(cmd, false) })
}

// FailIO ends the wait of all requests that wait because I/O is suspended: they
// fail with ErrSuspended, as do those that come before the suspension ends. Without a
// suspension it does nothing.
func (r *Resource) FailIO(ctx context.Context) error {
	return r.command(ctx, "fail suspended I/O", func(c *core.Core, cmd *core.Command) { c.FailSuspended(cmd) })
}

// command runs a command that concerns the volume.
func (v *Volume) command(ctx context.Context, doing string, start func(*core.Core, *core.Command)) error {
	return v.r.command(ctx, fmt.Sprintf("volume %d: %s", v.cfg.ID, doing), start)
}

// Invalidate gives up the data of this node: everything is copied from the peer
// (spec: behaviour 6.7).
func (v *Volume) Invalidate(ctx context.Context) error {
	return v.command(ctx, "invalidate", func(c *core.Core, cmd *core.Command) { c.Invalidate(cmd, v.index) })
}

// InvalidateRemote gives up the data of the peer: everything is copied from here.
func (v *Volume) InvalidateRemote(ctx context.Context) error {
	return v.command(ctx, "invalidate remote", func(c *core.Core, cmd *core.Command) { c.InvalidateRemote(cmd, v.index) })
}

// NewCurrentUUID begins a new data generation on a StandAlone node; with
// ClearBitmap on a connected pair of fresh disks it skips the initial sync (spec:
// behaviour 3.4).
func (v *Volume) NewCurrentUUID(ctx context.Context, opts ...NewUUIDOption) error {
	var o newUUIDOptions
	for _, opt := range opts {
		opt.newUUID(&o)
	}
	return v.command(ctx, "new current UUID", func(c *core.Core, cmd *core.Command) {
		c.NewCurrentUUID(cmd, v.index, o.clearBitmap)
	})
}

// Outdate marks the own disk as Outdated, so that it cannot be promoted without
// its peer. While connected it succeeds and changes nothing (spec: behaviour 2.2).
func (v *Volume) Outdate(ctx context.Context) error {
	return v.command(ctx, "outdate", func(c *core.Core, cmd *core.Command) { c.Outdate(cmd, v.index) })
}

// PauseSync pauses a resync, now or when one begins.
func (v *Volume) PauseSync(ctx context.Context) error {
	return v.command(ctx, "pause sync", func(c *core.Core, cmd *core.Command) { c.PauseSync(cmd, v.index, true) })
}

// ResumeSync ends PauseSync.
func (v *Volume) ResumeSync(ctx context.Context) error {
	return v.command(ctx, "resume sync", func(c *core.Core, cmd *core.Command) { c.PauseSync(cmd, v.index, false) })
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// opened returns the replica.Resource behind a minor, and the volume's number.
func (n *Node) opened(minor string) (*replica.Resource, *Volume, error) {
	v, err := n.Volume(minor)
	if err != nil {
		return nil, nil, err
	}
	res := v.r.replica()
	if res == nil {
		return nil, v, stateError(protocol.CodeDiskless, "attach a disk or connect first")
	}
	return res, v, nil
}

// Primary makes the resource of a minor Primary (primary).
func (n *Node) Primary(ctx context.Context, minor string, force bool) error {
	res, v, err := n.opened(minor)
	if err != nil {
		if v != nil {
			return stateError(protocol.CodeNoUpToDateDisk, "attach a disk or connect first")
		}
		return err
	}
	var opts []replica.PromoteOption
	if force {
		opts = append(opts, replica.Force())
	}
	if err := res.Promote(ctx, opts...); err != nil {
		return translate(err)
	}
	v.r.openMu.Lock()
	v.r.promoted = false // by hand: stays when clients leave
	v.r.openMu.Unlock()
	return nil
}

// Secondary makes the resource of a minor Secondary (secondary). It is refused with
// -12 while a client has a device of it open.
func (n *Node) Secondary(ctx context.Context, minor string) error {
	v, err := n.Volume(minor)
	if err != nil {
		return err
	}
	return translate(v.r.secondary(ctx))
}

func (r *Resource) secondary(ctx context.Context) error {
	r.openMu.Lock()
	defer r.openMu.Unlock()
	res := r.replica()
	if res == nil {
		return nil
	}
	if r.inUse() {
		return stateError(protocol.CodeDeviceInUse, "clients are connected to "+r.name)
	}
	r.promoted = false
	return res.Demote(ctx)
}

// VolumeCommand runs one of invalidate, invalidate-remote, pause-sync, resume-sync,
// outdate, repair, suspend-io and resume-io.
func (n *Node) VolumeCommand(ctx context.Context, verb, minor string) error {
	res, v, err := n.opened(minor)
	if err != nil {
		return err
	}
	vol := res.Volume(v.id)
	paused := func() bool {
		st, _ := res.Status().Volume(v.id)
		return st.State.UserISP
	}
	switch verb {
	case "invalidate":
		err = vol.Invalidate(ctx)
	case "invalidate-remote":
		err = vol.InvalidateRemote(ctx)
	case "outdate":
		err = vol.Outdate(ctx)
	case "pause-sync":
		if paused() {
			return failure(CodePauseIsSet, "minor %d", v.minor)
		}
		err = vol.PauseSync(ctx)
	case "resume-sync":
		if !paused() {
			return failure(CodePauseIsClear, "minor %d", v.minor)
		}
		err = vol.ResumeSync(ctx)
	case "repair":
		err = vol.Repair(ctx)
	case "suspend-io":
		err = res.SuspendIO(ctx)
	case "resume-io":
		err = res.ResumeIO(ctx)
	default:
		err = usage("%s: no such command", verb)
	}
	return translate(err)
}

// NewCurrentUUID begins a new data generation (new-current-uuid).
func (n *Node) NewCurrentUUID(ctx context.Context, minor string, clearBitmap bool) error {
	res, v, err := n.opened(minor)
	if err != nil {
		return err
	}
	var opts []replica.NewUUIDOption
	if clearBitmap {
		opts = append(opts, replica.ClearBitmap())
	}
	return translate(res.Volume(v.id).NewCurrentUUID(ctx, opts...))
}

// ChangeDiskOptions sets options of a volume's disk (disk-options); those that are not
// named stay, or go back to their default if reset is set. They count at once.
func (n *Node) ChangeDiskOptions(ctx context.Context, minor string, o Options, reset bool) error {
	v, err := n.Volume(minor)
	if err != nil {
		return err
	}
	r := v.r
	r.admin.Lock()
	defer r.admin.Unlock()
	merged, err := DiskOptions.merge(v.options, o, reset)
	if err != nil {
		return err
	}
	if merged["size"] != v.options["size"] {
		return failure(CodeInvalid, "the size changes with resize")
	}
	if err := v.conflicts(merged); err != nil {
		return err
	}
	n.mu.RLock()
	after := n.reference(DiskOptions.number(merged, "resync-after"))
	n.mu.RUnlock()
	return r.reconfigure(func(res *replica.Resource) error {
		return res.Volume(v.id).Change(ctx, func(c *replica.VolumeConfig) {
			size := c.Size
			applyDisk(c, merged)
			c.Size, c.ResyncAfter = size, after
		})
	}, func() { v.options = merged })
}

// ChangeNetOptions sets options of a connection (net-options). args are the two
// addresses, or the resource's name. Those of the making of a connection (connect-int,
// socket-check-timeout, the buffers' sizes) and verify-alg and csums-alg count for the
// next connection, the others at once.
func (n *Node) ChangeNetOptions(ctx context.Context, args []string, o Options, reset bool) error {
	r, err := n.byAddresses(args)
	if err != nil {
		return err
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	c := r.Net()
	if c == nil {
		return failure(CodeInvalid, "unknown connection")
	}
	merged, err := NetOptions.merge(c.Options, o, reset)
	if err != nil {
		return err
	}
	c.Options = merged
	if err := c.conflicts(r); err != nil {
		return err
	}
	return r.reconfigure(func(res *replica.Resource) error {
		var bad error
		err := res.ChangePeer(ctx, func(p *replica.PeerConfig) { bad = applyNet(p, merged) })
		return errors.Join(bad, err)
	}, func() { r.net = c })
}

// ChangeResourceOptions sets options of a resource (resource-options). The SDK takes them
// at its start only: they are refused while the resource is Primary or connected.
func (n *Node) ChangeResourceOptions(_ context.Context, name string, o Options, reset bool) error {
	r, err := n.Resource(name)
	if err != nil {
		return err
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	merged, err := ResourceOptions.merge(r.options, o, reset)
	if err != nil {
		return err
	}
	if res := r.replica(); res != nil && !idle(res) {
		return failure(CodeInvalid, "options of %s can be changed while it is Secondary and disconnected", r.name)
	}
	r.mu.Lock()
	r.options = merged
	r.mu.Unlock()
	return nil
}

// merge returns old options with others changed.
func (t optionTable) merge(old, o Options, reset bool) (Options, error) {
	merged := Options{}
	if !reset {
		maps.Copy(merged, old)
	}
	maps.Copy(merged, o)
	return t.Check(merged)
}

// reconfigure changes options in force, if there is a replica.Resource, and then what
// is remembered. The caller holds admin.
func (r *Resource) reconfigure(apply func(*replica.Resource) error, remember func()) error {
	_, before, err := r.configuration()
	if err != nil {
		return err
	}
	res := r.replica()
	if res != nil {
		if err := apply(res); err != nil {
			return translate(err)
		}
	}
	r.mu.Lock()
	remember()
	r.mu.Unlock()
	_, now, err := r.configuration()
	if res != nil && r.opened == before && err == nil {
		r.mu.Lock()
		r.opened = now // it has them
		r.mu.Unlock()
	}
	r.node.hub.notify(r.name)
	return err
}

// Down takes a resource out of service and forgets it (down). One that is not there is
// down already, as with DRBD.
func (n *Node) Down(ctx context.Context, name string) error {
	r, err := n.Resource(name)
	if err != nil {
		return nil
	}
	if err := r.secondary(ctx); err != nil {
		return translate(err)
	}
	r.admin.Lock()
	if r.connecting() {
		if err := r.disconnect(ctx, false); err != nil {
			r.admin.Unlock()
			return translate(err)
		}
	}
	err = r.close(ctx)
	if err == nil {
		for _, v := range r.Volumes() {
			err = errors.Join(err, v.closeBacking(), r.remove(ctx, v))
		}
	}
	r.admin.Unlock()
	if err != nil {
		return translate(err)
	}
	return n.DelResource(ctx, name)
}

// WaitOptions are those of wait-connect and wait-sync. Zero durations wait for ever.
type WaitOptions struct {
	Timeout, DegradedTimeout, OutdatedTimeout time.Duration
	AfterSplitBrain                           bool // go on waiting while StandAlone
}

// limit returns how long to wait for a volume (spec: behaviour 6.11).
func (o WaitOptions) limit(v *Volume, st replica.VolumeStatus) time.Duration {
	clip := func(d, by time.Duration) time.Duration {
		if by > 0 && (d == 0 || d > by) {
			return by
		}
		return d
	}
	degraded := clip(o.DegradedTimeout, o.Timeout)
	switch {
	case st.State.PeerDisk == protocol.Outdated:
		return clip(o.OutdatedTimeout, degraded)
	case v.degraded:
		return degraded
	}
	return o.Timeout
}

// Wait waits until a volume is connected, or with sync until it is neither
// resynchronising nor about to (wait-connect, wait-sync). It returns at once for a
// StandAlone node. Errors: *Error with exit code 5 after the time limit.
func (n *Node) Wait(ctx context.Context, minor string, sync bool, o WaitOptions) error {
	v, err := n.Volume(minor)
	if err != nil {
		return err
	}
	w := n.WatchResource(v.r.name)
	defer w.Close()
	st, _ := v.Status()
	if limit := o.limit(v, st); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	for {
		st, known := v.Status()
		switch conn := st.State.Conn; {
		case !known:
			return failure(CodeNoMinor, "minor %d", v.minor)
		case conn == protocol.StandAlone && !o.AfterSplitBrain:
			return nil
		case !sync && conn >= protocol.Connected:
			return nil
		case sync && (conn == protocol.Connected || conn == protocol.VerifyS || conn == protocol.VerifyT ||
			conn == protocol.Ahead || conn == protocol.Behind):
			return nil
		}
		if !w.Wait(ctx) {
			return &Error{Exit: ExitTimeout, Text: "timeout: " + st.State.Conn.String()}
		}
	}
}

// Status returns a volume's state. False means that it was removed.
func (v *Volume) Status() (replica.VolumeStatus, bool) {
	v.r.mu.RLock()
	known := v.r.volumes[v.id] == v
	v.r.mu.RUnlock()
	if res := v.r.replica(); res != nil {
		if st, ok := res.Status().Volume(v.id); ok {
			return st, known
		}
	}
	return replica.VolumeStatus{ID: v.id, Minor: v.minor, State: unconfigured}, known
}

// unconfigured is the state of a volume that was only named so far.
var unconfigured = protocol.State{Role: protocol.Secondary, PeerDisk: protocol.DUnknown}

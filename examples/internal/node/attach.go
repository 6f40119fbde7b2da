// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/transport"
)

// Attach brings a volume's disk into service (attach). Errors: *Error, 104, 105, 114,
// 119, 124 and others.
func (n *Node) Attach(ctx context.Context, minor string, b Backing, o Options) error {
	v, err := n.Volume(minor)
	if err != nil {
		return err
	}
	opts, err := DiskOptions.Check(o)
	if err != nil {
		return err
	}
	v.r.admin.Lock()
	defer v.r.admin.Unlock()
	if err := v.conflicts(opts); err != nil {
		return err
	}
	return translate(v.attach(ctx, b, opts))
}

// AttachAgain is Attach with the disk and the options of the last time.
func (n *Node) AttachAgain(ctx context.Context, minor string) error {
	v, err := n.Volume(minor)
	if err != nil {
		return err
	}
	v.r.admin.Lock()
	defer v.r.admin.Unlock()
	if v.last == nil {
		return usage("attach: name the disk: it was never attached")
	}
	return translate(v.attach(ctx, *v.last, v.options))
}

// attach is called with admin held.
func (v *Volume) attach(ctx context.Context, b Backing, opts Options) error {
	r := v.r
	if v.backing != nil {
		if v.diskState() != protocol.Diskless {
			return failure(CodeAttached, "%s", v.backing.Disk)
		}
		if err := v.closeBacking(); err != nil { // it has failed and was dropped
			r.node.log.Warn("closing a failed disk", "resource", r.name, "volume", v.id, "err", err)
		}
	}
	in, err := openBacking(b)
	if err != nil {
		return err
	}
	last := b
	last.data, last.meta = nil, nil
	r.mu.Lock()
	before := v.options
	v.options, v.last = opts, &last
	r.mu.Unlock()
	res, err := r.ensure(ctx)
	if err == nil {
		r.mu.Lock()
		v.backing = in
		r.mu.Unlock()
		return r.attachNow(ctx, res, v)
	}
	r.mu.Lock()
	v.options = before
	r.mu.Unlock()
	err = errors.Join(err, in.data.Close())
	if in.meta != nil {
		err = errors.Join(err, in.meta.Close())
	}
	return err
}

// attachNow hands a volume's open disk to the replica.Resource, and closes it if that
// refuses.
func (r *Resource) attachNow(ctx context.Context, res *replica.Resource, v *Volume) error {
	b := v.backing
	loc, err := b.location()
	if err == nil {
		meta := b.data
		if b.meta != nil {
			meta = b.meta
		}
		if sb, _, err := metadata.Read(meta, loc, meta.Size()); err == nil {
			v.degraded = sb.Flags&metadata.PrimaryInd != 0 && sb.Flags&metadata.ConnectedInd == 0
		}
		d := replica.Disk{Device: b.data, MetaDisk: loc}
		if b.meta != nil {
			d.MetaDevice = b.meta
		}
		if err = res.Volume(v.id).Attach(ctx, d); errors.Is(err, replica.ErrConfig) && v.options["size"] != "" {
			err = failure(CodeDiskTooSmall, "%v", err)
		}
	}
	if err != nil {
		return errors.Join(translate(err), v.closeBacking())
	}
	r.node.hub.notify(r.name)
	return nil
}

func (v *Volume) diskState() protocol.DiskState {
	if res := v.r.replica(); res != nil {
		if st, ok := res.Status().Volume(v.id); ok {
			return st.State.Disk
		}
	}
	return protocol.Diskless
}

// Detach takes a volume's disk out of service (detach).
func (n *Node) Detach(ctx context.Context, minor string, force bool) error {
	v, err := n.Volume(minor)
	if err != nil {
		return err
	}
	v.r.admin.Lock()
	defer v.r.admin.Unlock()
	return translate(v.detach(ctx, force))
}

func (v *Volume) detach(ctx context.Context, force bool) error {
	res := v.r.replica()
	if v.backing == nil || res == nil {
		return nil
	}
	var opts []replica.DetachOption
	if force {
		opts = append(opts, replica.Force())
	}
	if v.diskState() != protocol.Diskless {
		if err := res.Volume(v.id).Detach(ctx, opts...); err != nil {
			return err
		}
	}
	if force {
		// Requests may hang in it: the device is left to them.
		v.r.mu.Lock()
		v.backing = nil
		v.r.mu.Unlock()
		return nil
	}
	return v.closeBacking()
}

// ConnectOptions are the rare variants of Connect.
type ConnectOptions struct{ DiscardMyData, Tentative bool }

// Connect configures the connection of a resource and begins to look for the peer
// (connect). A nil c stands for the configuration of the last time. Errors: *Error,
// 102, 103, 123, 125.
func (n *Node) Connect(ctx context.Context, name string, c *Net, o ConnectOptions) error {
	r, err := n.Resource(name)
	if err != nil {
		return err
	}
	if c != nil {
		if c, err = c.checked(); err != nil {
			return err
		}
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	if c != nil {
		if err := c.conflicts(r); err != nil {
			return err
		}
	}
	return translate(r.connect(ctx, c, o))
}

// checked returns the connection with addresses and options in the form in which they
// are kept.
func (c *Net) checked() (*Net, error) {
	out := *c
	var err error
	if out.Local, err = parseAddress(c.Local); err != nil {
		return nil, err
	}
	if out.Remote, err = parseAddress(c.Remote); err != nil {
		return nil, err
	}
	out.Options, err = NetOptions.Check(c.Options)
	return &out, err
}

func (r *Resource) connect(ctx context.Context, c *Net, o ConnectOptions) error {
	if c == nil {
		if c = r.Net(); c == nil {
			return usage("connect: name the addresses: %s was never connected", r.name)
		}
	}
	if err := r.node.addressesFree(r, c); err != nil {
		return err
	}
	if res := r.replica(); res != nil {
		st := res.Status()
		if len(st.Peers) > 0 && st.Peers[0].Conn != protocol.StandAlone {
			return failure(CodeHasNet, "%s", st.Peers[0].Conn)
		}
		if o.DiscardMyData && st.Role() == protocol.Primary {
			return failure(CodeDiscardOnPrimary, "demote it first: drbdsetup secondary")
		}
	}
	r.mu.Lock()
	before := r.net
	r.net = c
	r.mu.Unlock()
	res, err := r.ensure(ctx)
	if err == nil {
		err = r.link.Close()
	}
	var t transport.Transport
	if err == nil {
		t, err = r.node.net.transport(ctx, r.name, c)
	}
	if err != nil {
		r.mu.Lock()
		r.net = before
		r.mu.Unlock()
		return err
	}
	r.link.set(t)
	var opts []replica.ConnectOption
	if o.DiscardMyData {
		opts = append(opts, replica.DiscardMyData())
	}
	if o.Tentative {
		opts = append(opts, replica.Tentative())
	}
	if err := res.Connect(ctx, opts...); err != nil {
		return err
	}
	r.mu.Lock()
	r.netUp = true
	r.mu.Unlock()
	return nil
}

// addressesFree refuses addresses that another connection has.
func (n *Node) addressesFree(r *Resource, c *Net) error {
	if n.cfg.Network.SharedPort != 0 {
		return nil
	}
	for _, o := range n.Resources() {
		if o == r {
			continue
		}
		o.mu.RLock()
		taken := o.netUp && o.net != nil
		var local, remote bool
		if taken {
			local, remote = o.net.Local == c.Local, o.net.Remote == c.Remote
		}
		o.mu.RUnlock()
		if local {
			return failure(CodeLocalAddress, "%s is used by %s", c.Local, o.name)
		}
		if remote {
			return failure(CodePeerAddress, "%s is used by %s", c.Remote, o.name)
		}
	}
	return nil
}

// Disconnect gives up the connection (disconnect). args are the two addresses, or the
// resource's name.
func (n *Node) Disconnect(ctx context.Context, args []string, force bool) error {
	r, err := n.byAddresses(args)
	if err != nil {
		return err
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	return translate(r.disconnect(ctx, force))
}

func (r *Resource) disconnect(ctx context.Context, force bool) error {
	res := r.replica()
	if res == nil || !r.connecting() {
		return failure(CodeInvalid, "unknown connection")
	}
	var opts []replica.DisconnectOption
	if force {
		opts = append(opts, replica.Force())
	}
	if st := res.Status(); len(st.Peers) == 0 || st.Peers[0].Conn != protocol.StandAlone {
		if err := res.Disconnect(ctx, opts...); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.netUp = false
	r.mu.Unlock()
	return r.link.Close()
}

// connecting reports whether the resource has a connection configured.
func (r *Resource) connecting() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.netUp
}

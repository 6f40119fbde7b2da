// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
	"time"

	"github.com/go-blockmirror/blockmirror/examples/nbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// demoteTimeout is how long Close waits until the resource is Secondary.
const demoteTimeout = 30 * time.Second

// Promotion makes a resource Primary when one of its exports is opened, and Secondary
// again when none is in use any more: the node a client comes to is the one that
// serves. One Promotion goes with all exports of a resource. It is safe for concurrent
// use.
//
// A resource that was Primary before stays it.
type Promotion struct {
	res  *replica.Resource
	opts []replica.PromoteOption

	lock  chan struct{} // holds a token while users or the role changes
	users int
	ours  bool // it was us who promoted it
}

// NewPromotion returns a Promotion of a resource. The options are those of Promote;
// with replica.Force() a client's coming declares the own data good, which is seldom
// what is wanted.
func NewPromotion(res *replica.Resource, opts ...replica.PromoteOption) *Promotion {
	return &Promotion{res: res, opts: opts, lock: make(chan struct{}, 1)}
}

// Open is for nbd.Export.Open: it promotes the resource, for the first one that comes.
// While the peer is Primary that is refused, and so is the client.
func (p *Promotion) Open(ctx context.Context) error {
	select {
	case p.lock <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.lock }()
	if p.users == 0 && p.res.Status().Role() != protocol.Primary {
		if err := p.res.Promote(ctx, p.opts...); err != nil {
			return fmt.Errorf("%w: %w", nbd.EPERM, err)
		}
		p.ours = true
	}
	p.users++
	return nil
}

// Close is for nbd.Export.Close: it demotes the resource, for the last one that goes.
func (p *Promotion) Close() error {
	p.lock <- struct{}{}
	defer func() { <-p.lock }()
	if p.users--; p.users > 0 || !p.ours {
		return nil
	}
	p.ours = false
	ctx, cancel := context.WithTimeout(context.Background(), demoteTimeout)
	defer cancel()
	return p.res.Demote(ctx)
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"sync"
)

// connector is the Transport over any Streams: one pairing at a time.
type connector struct {
	streams Streams
	cfg     PairingConfig

	mu      sync.Mutex
	closed  bool
	cancel  context.CancelCauseFunc // ends the Connect under way; nil if there is none
	running sync.WaitGroup
}

// New returns a Transport that forms pairs of streams from s by DRBD's rules, for
// networks other than those of this package.
func New(s Streams, cfg PairingConfig) Transport { return newConnector(s, cfg) }

func newConnector(s Streams, cfg PairingConfig) *connector {
	return &connector{streams: s, cfg: cfg.withDefaults()}
}

// Connect implements Transport.
func (c *connector) Connect(ctx context.Context) (*Pair, error) {
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	return newPairing(c.streams, &c.cfg).run(ctx)
}

// begin reserves the transport for one Connect, which calls end when it is over.
func (c *connector) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, ErrClosed
	}
	if c.cancel != nil {
		return nil, nil, ErrConnecting
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c.cancel = cancel
	c.running.Add(1)
	return ctx, func() {
		cancel(nil)
		c.mu.Lock()
		c.cancel = nil
		c.mu.Unlock()
		c.running.Done()
	}, nil
}

// Close implements Transport.
func (c *connector) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.cancel != nil {
		c.cancel(ErrClosed)
	}
	c.mu.Unlock()
	c.running.Wait()
	return nil
}

// String implements Transport.
func (c *connector) String() string { return c.streams.String() }

// reason returns why ctx ended: ErrClosed if the transport was closed, else ctx.Err().
func reason(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), ErrClosed) {
		return ErrClosed
	}
	return ctx.Err()
}

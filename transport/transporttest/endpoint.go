// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/go-blockmirror/blockmirror/transport"
)

// appointment is a Connect that waits for the peer's.
type appointment struct {
	meet chan *transport.Pair // buffered; nil when the network was closed
}

// endpoint is the Transport that pairs by appointment.
type endpoint struct {
	net           *Network
	local, remote string

	mu     sync.Mutex
	closed bool
	cancel context.CancelCauseFunc // of the Connect under way
	idle   sync.Cond               // cancel became nil
}

// Transport returns node local's transport to node remote. When the other node
// connects too, and the link is up, both have their pair at once; nothing is
// dialled, no timer runs. Which of them is the resolver is a coin's decision or
// SetResolver's.
func (n *Network) Transport(local, remote string) transport.Transport {
	e := &endpoint{net: n, local: local, remote: remote}
	e.idle.L = &e.mu
	return e
}

// Dialer returns node local's transport to node remote with the real rules of
// pairing, as over TCP: both nodes listen and dial, first packets are sent, dials
// may cross. A short cfg.SocketCheckTimeout makes it quick.
func (n *Network) Dialer(local, remote string, cfg transport.PairingConfig) transport.Transport {
	return transport.New(&memoryStreams{net: n, local: local, remote: remote}, cfg)
}

// memoryStreams is the transport.Streams of a Network.
type memoryStreams struct {
	net           *Network
	local, remote string
}

// Dial implements transport.Streams.
func (s *memoryStreams) Dial(ctx context.Context) (net.Conn, error) {
	return s.net.dial(ctx, s.local, s.remote)
}

// Listen implements transport.Streams.
func (s *memoryStreams) Listen(context.Context) (net.Listener, error) {
	return s.net.listen(s.local, s.remote)
}

func (s *memoryStreams) String() string { return s.local + " <-> " + s.remote }

// Connect implements transport.Transport.
func (e *endpoint) Connect(ctx context.Context) (*transport.Pair, error) {
	ctx, err := e.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer e.end()
	key := [2]string{e.local, e.remote}
	a := &appointment{meet: make(chan *transport.Pair, 1)}
	n := e.net
	n.mu.Lock()
	switch {
	case n.closed:
		n.mu.Unlock()
		return nil, transport.ErrClosed
	case n.waiting[key] != nil:
		n.mu.Unlock()
		return nil, transport.ErrConnecting
	}
	n.waiting[key] = a
	n.meetLocked(e.local, e.remote)
	n.mu.Unlock()

	select {
	case pair := <-a.meet:
		if pair == nil {
			return nil, transport.ErrClosed
		}
		return pair, nil
	case <-ctx.Done():
	}
	n.mu.Lock()
	if n.waiting[key] == a {
		delete(n.waiting, key)
	}
	n.mu.Unlock()
	select {
	case pair := <-a.meet: // formed in the same moment
		if pair != nil {
			pair.Close()
		}
	default:
	}
	return nil, fmt.Errorf("transporttest: no connection %s: %w", e, context.Cause(ctx))
}

// meetLocked forms a pair if both nodes wait and the link is up.
func (n *Network) meetLocked(a, b string) {
	ab, ba := [2]string{a, b}, [2]string{b, a}
	wa, wb := n.waiting[ab], n.waiting[ba]
	if wa == nil || wb == nil || !n.upLocked(a, b) {
		return
	}
	delete(n.waiting, ab)
	delete(n.waiting, ba)
	// The order of arrival must not matter to what the coin means.
	first, second := min(a, b), max(a, b)
	resolver := first
	switch {
	case n.resolver == a || n.resolver == b:
		resolver = n.resolver
	case n.rng.Uint64()>>63 == 1:
		resolver = second
	}
	d1, d2 := n.connectLocked(first, second)
	m1, m2 := n.connectLocked(first, second)
	p1 := &transport.Pair{Data: d1, Meta: m1, Resolver: resolver == first, Local: first, Remote: second}
	p2 := &transport.Pair{Data: d2, Meta: m2, Resolver: resolver == second, Local: second, Remote: first}
	if first != a {
		p1, p2 = p2, p1
	}
	wa.meet <- p1
	wb.meet <- p2
}

func (e *endpoint) begin(ctx context.Context) (context.Context, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, transport.ErrClosed
	}
	if e.cancel != nil {
		return nil, transport.ErrConnecting
	}
	ctx, e.cancel = context.WithCancelCause(ctx)
	return ctx, nil
}

func (e *endpoint) end() {
	e.mu.Lock()
	e.cancel(nil)
	e.cancel = nil
	e.idle.Broadcast()
	e.mu.Unlock()
}

// Close implements transport.Transport.
func (e *endpoint) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if e.cancel != nil {
		e.cancel(transport.ErrClosed)
	}
	for e.cancel != nil {
		e.idle.Wait()
	}
	return nil
}

// String implements transport.Transport.
func (e *endpoint) String() string { return e.local + " <-> " + e.remote }

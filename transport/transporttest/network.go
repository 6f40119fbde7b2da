// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/go-blockmirror/blockmirror/transport"
)

// DefaultBuffer is how many bytes one direction of a connection holds unless
// Network.SetBuffer changes it: 256 KiB, about what TCP does.
const DefaultBuffer = 256 << 10

// Network is a set of nodes and the links between them. All methods are safe for
// concurrent use.
type Network struct {
	mu       sync.Mutex
	rng      *rand.Rand
	buffer   int
	resolver string // the node that always is; "" for a coin
	links    map[[2]string]*link
	waiting  map[[2]string]*appointment // by (node, peer)
	ports    map[[2]string]*listener    // by (node, peer)
	changed  chan struct{}              // closed and replaced when dials may go on
	conns    int
	closed   bool
}

// link is what lies between two nodes.
type link struct {
	paths [2]*Path
	down  bool // guarded by Network.mu

	mu   sync.Mutex
	open map[*Conn]struct{} // one end of each connection
}

// NewNetwork returns a network whose coins fall as the seed says.
func NewNetwork(seed uint64) *Network {
	return &Network{
		rng:     rand.New(rand.NewPCG(seed, 0x6e6574)),
		buffer:  DefaultBuffer,
		links:   make(map[[2]string]*link),
		waiting: make(map[[2]string]*appointment),
		ports:   make(map[[2]string]*listener),
		changed: make(chan struct{}),
	}
}

// SetBuffer sets how many bytes one direction of a connection holds, for those that
// are made later: how much a node can write to a peer that does not read.
func (n *Network) SetBuffer(bytes int) {
	n.mu.Lock()
	n.buffer = max(bytes, 1)
	n.mu.Unlock()
}

// SetResolver makes a node the resolver of all pairs that Transport forms from now
// on; the empty name returns to the coin.
func (n *Network) SetResolver(name string) {
	n.mu.Lock()
	n.resolver = name
	n.mu.Unlock()
}

// Path returns the direction from one node to another.
func (n *Network) Path(from, to string) *Path {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pathLocked(from, to)
}

func (n *Network) pathLocked(from, to string) *Path {
	l := n.linkLocked(from, to)
	if l.paths[0].from == from {
		return l.paths[0]
	}
	return l.paths[1]
}

func (n *Network) linkLocked(a, b string) *link {
	key := [2]string{min(a, b), max(a, b)}
	l := n.links[key]
	if l == nil {
		l = &link{open: make(map[*Conn]struct{})}
		l.paths[0] = &Path{net: n, from: key[0], to: key[1], left: -1}
		l.paths[1] = &Path{net: n, from: key[1], to: key[0], left: -1}
		n.links[key] = l
	}
	return l
}

// Cut breaks all connections between two nodes, at both ends at once, and the link
// until Heal: no pair is formed and dials wait.
func (n *Network) Cut(a, b string) {
	n.mu.Lock()
	l := n.linkLocked(a, b)
	l.down = true
	n.mu.Unlock()
	l.reset()
}

// Reset breaks all connections between two nodes, at both ends at once. The link
// stays up.
func (n *Network) Reset(a, b string) {
	n.mu.Lock()
	l := n.linkLocked(a, b)
	n.mu.Unlock()
	l.reset()
}

// Heal ends Cut, both Stalls, and CutAfter of the link between two nodes. Delays
// and bandwidths stay.
func (n *Network) Heal(a, b string) {
	n.mu.Lock()
	l := n.linkLocked(a, b)
	l.down = false
	n.mu.Unlock()
	for _, p := range l.paths {
		p.CutAfter(-1)
		p.Resume()
	}
}

// Close breaks everything: connections are reset, and Connect fails with
// transport.ErrClosed.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	n.wakeLocked()
	for _, w := range n.waiting {
		w.meet <- nil
	}
	clear(n.waiting)
	var links []*link
	for _, l := range n.links {
		links = append(links, l)
	}
	var ports []*listener
	for _, p := range n.ports {
		ports = append(ports, p)
	}
	n.mu.Unlock()
	for _, p := range ports {
		p.Close()
	}
	for _, l := range links {
		l.reset()
	}
	return nil
}

// resumed lets what was held on a path go on.
func (n *Network) resumed(p *Path) {
	n.mu.Lock()
	l := n.linkLocked(p.from, p.to)
	n.wakeLocked()
	n.meetLocked(p.from, p.to)
	n.mu.Unlock()
	for _, c := range l.conns() {
		c.in.deliver()
		c.out.deliver()
	}
}

// wakeLocked lets dials look again.
func (n *Network) wakeLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// upLocked tells whether bytes pass between two nodes in both directions.
func (n *Network) upLocked(a, b string) bool {
	l := n.linkLocked(a, b)
	return !l.down && !l.paths[0].isStalled() && !l.paths[1].isStalled()
}

// connectLocked makes a connection from one node to another and returns both ends.
func (n *Network) connectLocked(from, to string) (near, far *Conn) {
	n.conns++
	l := n.linkLocked(from, to)
	out, in := n.pathLocked(from, to), n.pathLocked(to, from)
	there, back := newPipe(out, in, n.buffer), newPipe(in, out, n.buffer)
	la, ra := Addr(fmt.Sprintf("%s#%d", from, n.conns)), Addr(fmt.Sprintf("%s#%d", to, n.conns))
	near = &Conn{net: n, link: l, in: back, out: there, local: la, remote: ra, left: -1}
	far = &Conn{net: n, link: l, in: there, out: back, local: ra, remote: la, left: -1}
	near.peer, far.peer = far, near
	l.mu.Lock()
	l.open[near] = struct{}{}
	l.mu.Unlock()
	return near, far
}

func (l *link) conns() []*Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*Conn
	for c := range l.open {
		all = append(all, c)
	}
	return all
}

func (l *link) reset() {
	for _, c := range l.conns() {
		c.Reset()
	}
}

// forget drops a connection whose two ends are closed.
func (l *link) forget(c *Conn) {
	l.mu.Lock()
	delete(l.open, c)
	delete(l.open, c.peer)
	l.mu.Unlock()
}

// dial opens a connection as TCP would: refused if nobody listens, waiting while the
// link is down, and one round trip long.
func (n *Network) dial(ctx context.Context, from, to string) (net.Conn, error) {
	there, back := n.Path(from, to).getDelay(), n.Path(to, from).getDelay()
	if err := sleep(ctx, there); err != nil {
		return nil, err
	}
	near, err := n.knock(ctx, from, to)
	if e := sleep(ctx, back); e != nil {
		if near != nil {
			near.Close()
		}
		return nil, e
	}
	if err != nil {
		return nil, err
	}
	return near, nil
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// knock puts a connection into the backlog of the node that is dialled.
func (n *Network) knock(ctx context.Context, from, to string) (*Conn, error) {
	for {
		n.mu.Lock()
		changed := n.changed
		switch {
		case n.closed:
			n.mu.Unlock()
			return nil, transport.ErrClosed
		case n.upLocked(from, to):
			defer n.mu.Unlock()
			ln := n.ports[[2]string{to, from}]
			if ln == nil || len(ln.backlog) == cap(ln.backlog) {
				return nil, &net.OpError{Op: "dial", Net: "memory", Addr: Addr(to), Err: syscall.ECONNREFUSED}
			}
			near, far := n.connectLocked(from, to)
			ln.backlog <- far
			return near, nil
		}
		n.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// listener is a node's port for one peer.
type listener struct {
	net     *Network
	key     [2]string
	backlog chan *Conn
	done    chan struct{}
	once    sync.Once
}

func (n *Network) listen(local, remote string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]string{local, remote}
	if n.closed {
		return nil, transport.ErrClosed
	}
	if n.ports[key] != nil {
		return nil, &net.OpError{Op: "listen", Net: "memory", Addr: Addr(local), Err: syscall.EADDRINUSE}
	}
	ln := &listener{net: n, key: key, backlog: make(chan *Conn, 16), done: make(chan struct{})}
	n.ports[key] = ln
	return ln, nil
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. What was not accepted is reset.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.ports, l.key)
		l.net.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.backlog:
				c.Reset()
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return Addr(l.key[0]) }

func isEOF(err error) bool { return err == io.EOF }

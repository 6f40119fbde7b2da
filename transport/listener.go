// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// DefaultSharedCheck is the check interval of resources behind a shared listener
// unless ListenerConfig sets one. It is shorter than DRBD's, because the peer is
// always a blockmirror node.
const DefaultSharedCheck = 100 * time.Millisecond

// ListenerConfig describes a shared listener. The zero value is plain TCP with
// default times.
type ListenerConfig struct {
	// TLS makes all connections TLS; see TLSConfig.Config for what it must hold. The
	// peer's certificate must be for the name that PeerName gives, or else for the
	// host of the resource's remote address. nil means plain TCP.
	TLS *tls.Config

	// ConnectInterval, PingTimeout, Rand and Logger: see PairingConfig. Rand is
	// called from several goroutines at a time.
	ConnectInterval time.Duration
	PingTimeout     time.Duration
	Rand            func() uint64
	Logger          *slog.Logger
	// SocketCheckTimeout: see PairingConfig. 0 means DefaultSharedCheck.
	SocketCheckTimeout time.Duration
	// SndBuf, RcvBuf and AllowRemote: see TCPConfig.
	SndBuf      int
	RcvBuf      int
	AllowRemote func(from netip.Addr) bool
	// MaxPending limits the connections that have not yet named their resource; of
	// more the oldest is dropped. 0 means 256. Each takes a goroutine and, with TLS,
	// some 30 KiB, for at most four times PingTimeout.
	MaxPending int
}

// Listener is one port that many resources of blockmirror nodes share. Every
// connection names its resource in a preface, which a kernel's DRBD does not know.
//
// The port stays open until Close. A connection for a resource whose Connect is
// not under way is refused, so a peer sees the same as with a port of its own.
type Listener struct {
	cfg     ListenerConfig
	pairing PairingConfig
	tcp     *tcpStreams // without a remote
	base    *tls.Config // nil: plain TCP
	ln      net.Listener
	log     *slog.Logger
	pending pendingConns
	tasks   sync.WaitGroup
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc

	mu        sync.Mutex
	resources map[string]*resource
	closed    bool
}

// Listen opens a shared listener on addr. network is "tcp", "tcp4" or "tcp6". ctx
// limits only the opening.
func Listen(ctx context.Context, network, addr string, cfg ListenerConfig) (*Listener, error) {
	tcp, err := newTCPStreams(&TCPConfig{
		Local: addr, Remote: addr, SndBuf: cfg.SndBuf, RcvBuf: cfg.RcvBuf,
		AllowRemote: cfg.AllowRemote, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	tcp.network = network
	if cfg.SocketCheckTimeout <= 0 {
		cfg.SocketCheckTimeout = DefaultSharedCheck
	}
	if cfg.MaxPending <= 0 {
		cfg.MaxPending = 256
	}
	l := &Listener{
		cfg: cfg,
		pairing: PairingConfig{
			ConnectInterval: cfg.ConnectInterval, PingTimeout: cfg.PingTimeout,
			SocketCheckTimeout: cfg.SocketCheckTimeout, Rand: cfg.Rand, Logger: cfg.Logger,
		}.withDefaults(),
		tcp:       tcp,
		pending:   pendingConns{max: cfg.MaxPending},
		resources: make(map[string]*resource),
	}
	if cfg.TLS != nil {
		if l.base, err = (TLSConfig{Config: cfg.TLS}).base(); err != nil {
			return nil, err
		}
	}
	if l.ln, err = tcp.Listen(ctx); err != nil {
		return nil, fmt.Errorf("transport: shared listener: %w", err)
	}
	tcp.local = l.ln.Addr().String() // the port may have been 0
	l.log = l.pairing.Logger.With("listener", l.ln.Addr().String())
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.tasks.Add(1)
	go l.accept()
	return l, nil
}

// Addr returns the address that is listened on.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Close closes the port and ends every Connect of its resources with ErrClosed. It
// returns when no goroutine of the listener is left. Pairs stay open.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	var all []*resource
	for _, r := range l.resources {
		all = append(all, r)
	}
	l.mu.Unlock()
	l.cancel()
	err := l.ln.Close()
	l.pending.closeAll()
	l.tasks.Wait()
	for _, r := range all {
		r.Close()
	}
	return err
}

// ResourceOption is a rare setting of one resource.
type ResourceOption func(*resource)

// PeerName sets the name that the peer's certificate must be for, where it is not
// the host of the remote address.
func PeerName(name string) ResourceOption {
	return func(r *resource) { r.peerName = name }
}

// Resource returns the transport of the resource called name to the node whose
// shared listener is at remote, a host:port. Both nodes call the resource the same.
// The name, 1 to MaxResourceName bytes of UTF-8, belongs to this transport until its
// Close. A bad or used name or a bad address is reported by Connect.
func (l *Listener) Resource(name, remote string, opts ...ResourceOption) Transport {
	r := &resource{l: l, name: name, remote: remote}
	r.connector = newConnector(r, l.pairing)
	r.peerName, _, r.err = net.SplitHostPort(remote)
	for _, o := range opts {
		o(r)
	}
	if err := checkName(name); err != nil {
		r.err = err
	}
	if l.base != nil {
		r.client = clientTLS(l.base, r.peerName)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		r.err = ErrClosed
	case r.err != nil:
	case l.resources[name] != nil:
		r.err = fmt.Errorf("transport: there is already a resource %q on this listener, close it first", name)
	default:
		l.resources[name] = r
	}
	return r
}

// accept takes connections until the listener is closed.
func (l *Listener) accept() {
	defer l.tasks.Done()
	acceptLoop(l.ctx, l.ln, &l.pending, l.log, func(c net.Conn) {
		l.tasks.Add(1)
		go l.welcome(c)
	})
}

// welcome brings a new connection to its resource, or closes it.
func (l *Listener) welcome(c net.Conn) {
	defer l.tasks.Done()
	stream, r, err := l.identify(c)
	if !l.pending.remove(c) {
		return // evicted, or the listener is closed
	}
	if err == nil && !r.deliver(stream) {
		err = ErrNotWaiting
	}
	if err != nil {
		level := slog.LevelWarn
		if errors.Is(err, ErrNotWaiting) {
			level = slog.LevelDebug // the peer is merely faster
		}
		l.log.Log(context.Background(), level, "connection refused", "from", c.RemoteAddr().String(), "err", err)
		c.Close()
	}
}

// identify finds out whom a connection is for and answers its preface. stream is c
// or the TLS stream over it.
func (l *Listener) identify(c net.Conn) (stream net.Conn, r *resource, err error) {
	if err := c.SetDeadline(time.Now().Add(l.pairing.firstPacketTimeout())); err != nil {
		return nil, nil, err
	}
	stream = c
	if l.base != nil {
		t := tls.Server(c, l.base)
		if err := t.HandshakeContext(l.ctx); err != nil {
			return nil, nil, explainTLS(err)
		}
		stream = t
	}
	name, err := readPreface(stream)
	if err != nil {
		if errors.Is(err, ErrPreface) && !errors.Is(err, errKernelPeer) {
			_, _ = stream.Write(appendStatus(nil, statusMalformed))
		}
		return nil, nil, err
	}
	r, status, err := l.find(name, stream)
	if _, e := stream.Write(appendStatus(nil, status)); err == nil && e != nil {
		err = e
	}
	if err != nil {
		return nil, nil, fmt.Errorf("for resource %q: %w", name, err)
	}
	return stream, r, c.SetDeadline(time.Time{})
}

// find returns the resource that a connection may be given to.
func (l *Listener) find(name string, stream net.Conn) (*resource, prefaceStatus, error) {
	l.mu.Lock()
	r := l.resources[name]
	l.mu.Unlock()
	if r == nil {
		return nil, statusUnknown, fmt.Errorf("%w here: configure it on this node or correct its name on the peer", errUnknownHere)
	}
	if t, ok := stream.(*tls.Conn); ok {
		if err := verifyName(t.ConnectionState(), r.peerName); err != nil {
			return nil, statusIdentity, err
		}
	}
	if !r.waiting() {
		return nil, statusNotWaiting, ErrNotWaiting
	}
	return r, statusOK, nil
}

var errUnknownHere = errors.New("transport: there is no such resource")

// resource is one resource of a shared listener: a connector and its Streams.
type resource struct {
	*connector
	l        *Listener
	name     string
	remote   string
	peerName string
	client   *tls.Config // nil: plain TCP
	err      error       // what Connect reports

	mu sync.Mutex
	at *resourceListener // while a Connect is under way
}

// Close implements Transport: it also gives up the name.
func (r *resource) Close() error {
	r.l.mu.Lock()
	if r.l.resources[r.name] == r {
		delete(r.l.resources, r.name)
	}
	r.l.mu.Unlock()
	return r.connector.Close()
}

func (r *resource) String() string {
	return fmt.Sprintf("%s: %s <-> %s", r.name, r.l.tcp.local, r.remote)
}

// Dial implements Streams: a connection to the peer's shared listener that the
// peer has agreed to.
func (r *resource) Dial(ctx context.Context) (net.Conn, error) {
	tcp := *r.l.tcp
	tcp.remote = r.remote
	var c net.Conn
	var err error
	if r.client == nil {
		c, err = tcp.Dial(ctx)
	} else {
		c, err = (&tlsStreams{tcpStreams: &tcp, client: r.client}).Dial(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := r.ask(ctx, c); err != nil {
		c.Close()
		return nil, fmt.Errorf("resource %q at %s: %w", r.name, r.remote, explainTLS(err))
	}
	return c, nil
}

// ask sends the preface and waits for the answer.
func (r *resource) ask(ctx context.Context, c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(r.l.pairing.firstPacketTimeout())); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.Write(appendPreface(nil, r.name)); err != nil {
		return err
	}
	if err := readStatus(c); err != nil {
		return err
	}
	if !stop() {
		return ctx.Err()
	}
	return c.SetDeadline(time.Time{})
}

// Listen implements Streams: from now on connections for this resource are welcome.
func (r *resource) Listen(context.Context) (net.Listener, error) {
	if r.err != nil {
		return nil, r.err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// One Connect at a time; the last one's listener is closed.
	r.at = &resourceListener{
		r: r, conns: make(chan net.Conn, r.l.pairing.MaxPending), done: make(chan struct{}),
	}
	return r.at, nil
}

func (r *resource) waiting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at != nil
}

// deliver hands over a connection whose preface was answered. It returns false if
// nobody wants it any more.
func (r *resource) deliver(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == nil {
		return false
	}
	select {
	case r.at.conns <- c:
		return true
	default:
		return false
	}
}

// resourceListener is the port of one resource while it waits.
type resourceListener struct {
	r     *resource
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// Accept implements net.Listener.
func (l *resourceListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
	case <-l.r.l.ctx.Done():
	}
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (l *resourceListener) Close() error {
	l.once.Do(func() {
		l.r.mu.Lock()
		l.r.at = nil
		l.r.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.conns:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// Addr implements net.Listener.
func (l *resourceListener) Addr() net.Addr { return l.r.l.Addr() }

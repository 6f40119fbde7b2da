// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/transport"
)

// NetworkConfig says how the connections between the nodes are made.
type NetworkConfig struct {
	// TLS holds this node's certificate and the authorities; nil for plain TCP.
	// See transport.TLSConfig.
	TLS *tls.Config
	// SharedPort, if it is not 0, is used by all resources in place of their own ports,
	// here and on the peer, which must be a blockmirror node that does the same.
	SharedPort int
	Logger     *slog.Logger
}

// network makes transports, and holds the shared listeners.
type network struct {
	cfg       NetworkConfig
	mu        sync.Mutex
	listeners map[string]*transport.Listener // by local address
}

// transport returns one for a resource. The caller closes it.
func (n *network) transport(ctx context.Context, resource string, c *Net) (transport.Transport, error) {
	t := NetOptions
	check := t.deciseconds(c.Options, "socket-check-timeout")
	interval := time.Duration(t.number(c.Options, "connect-int")) * time.Second
	ping := t.deciseconds(c.Options, "ping-timeout")
	peer := c.PeerName
	if peer == "" {
		peer, _, _ = net.SplitHostPort(c.Remote)
	}
	if n.cfg.SharedPort != 0 {
		l, err := n.listener(ctx, n.shared(c.Local), transport.ListenerConfig{
			TLS: n.cfg.TLS, ConnectInterval: interval, PingTimeout: ping, SocketCheckTimeout: check, Logger: n.cfg.Logger,
		})
		if err != nil {
			return nil, err
		}
		return l.Resource(resource, n.shared(c.Remote), transport.PeerName(peer)), nil
	}
	cfg := transport.TCPConfig{
		Local: c.Local, Remote: c.Remote, ConnectInterval: interval, PingTimeout: ping, SocketCheckTimeout: check,
		Logger: n.cfg.Logger, SndBuf: int(t.number(c.Options, "sndbuf-size")), RcvBuf: int(t.number(c.Options, "rcvbuf-size")),
	}
	if n.cfg.TLS != nil {
		return transport.NewTLS(cfg, transport.TLSConfig{Config: n.cfg.TLS, ExpectedPeerName: peer})
	}
	return transport.NewTCP(cfg)
}

// shared returns an address with the shared port.
func (n *network) shared(addr string) string {
	host, _, _ := net.SplitHostPort(addr) // it was parsed before
	return net.JoinHostPort(host, strconv.Itoa(n.cfg.SharedPort))
}

// listener returns the shared listener of a local address. The first resource's times
// are those of all.
func (n *network) listener(ctx context.Context, addr string, cfg transport.ListenerConfig) (*transport.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.listeners[addr]; l != nil {
		return l, nil
	}
	l, err := transport.Listen(ctx, "tcp", addr, cfg)
	if err != nil {
		return nil, err
	}
	if n.listeners == nil {
		n.listeners = map[string]*transport.Listener{}
	}
	n.listeners[addr] = l
	return l, nil
}

// close closes the shared ports.
func (n *network) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, l := range n.listeners {
		errs = append(errs, l.Close())
	}
	n.listeners = nil
	return errors.Join(errs...)
}

// link is the transport that a replica.Resource has from its start. Behind it the one
// that the last connect asked for is used.
type link struct {
	mu  sync.Mutex
	now transport.Transport
}

var errNoNet = errors.New("no addresses are configured: use connect")

// set exchanges the transport and returns the one before it, or nil.
func (l *link) set(t transport.Transport) transport.Transport {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.now
	l.now = t
	return old
}

func (l *link) get() transport.Transport {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// Connect implements transport.Transport.
func (l *link) Connect(ctx context.Context) (*transport.Pair, error) {
	if t := l.get(); t != nil {
		return t.Connect(ctx)
	}
	return nil, errNoNet
}

// Close implements transport.Transport.
func (l *link) Close() error {
	if t := l.set(nil); t != nil {
		return t.Close()
	}
	return nil
}

func (l *link) String() string {
	if t := l.get(); t != nil {
		return t.String()
	}
	return "no addresses"
}

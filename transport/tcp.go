// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// TCPConfig describes a pair of TCP connections with one peer. It speaks to a
// kernel's DRBD as well as to a blockmirror node. A resource needs a port of its
// own, because DRBD names no resource on the wire.
type TCPConfig struct {
	// Local is this node's host:port, listened on while a pair is being formed. If
	// its host is an IP address, dials come from there too.
	Local string
	// Remote is the peer's host:port.
	Remote string

	// ConnectInterval, PingTimeout, SocketCheckTimeout, Rand and Logger: see PairingConfig.
	ConnectInterval    time.Duration
	PingTimeout        time.Duration
	SocketCheckTimeout time.Duration
	Rand               func() uint64
	Logger             *slog.Logger

	// SndBuf and RcvBuf are the kernel's socket buffers in bytes, up to 10 MiB; 0 lets it
	// choose.
	SndBuf int
	RcvBuf int
	// AllowRemote decides whether a connection from this address may be the
	// peer's. nil allows all, as DRBD does: an address proves nothing.
	AllowRemote func(from netip.Addr) bool
}

func (c *TCPConfig) pairing() PairingConfig {
	return PairingConfig{
		ConnectInterval:    c.ConnectInterval,
		PingTimeout:        c.PingTimeout,
		SocketCheckTimeout: c.SocketCheckTimeout,
		Rand:               c.Rand,
		Logger:             c.Logger,
	}
}

// TCP is the Transport over plain TCP or TLS.
type TCP struct {
	*connector
}

// NewTCP returns a transport over plain TCP. It opens nothing yet. An address
// that is no host:port is an error, and so is a time or a size beyond DRBD's range
// (spec: behaviour 10.1).
func NewTCP(cfg TCPConfig) (*TCP, error) {
	s, err := newTCPStreams(&cfg)
	if err != nil {
		return nil, err
	}
	return &TCP{newConnector(s, cfg.pairing())}, nil
}

// tcpStreams is the Streams of plain TCP.
type tcpStreams struct {
	network        string // "tcp", "tcp4", "tcp6"
	local, remote  string
	sndBuf, rcvBuf int
	allow          func(netip.Addr) bool
	log            *slog.Logger
}

func newTCPStreams(cfg *TCPConfig) (*tcpStreams, error) {
	if _, _, err := net.SplitHostPort(cfg.Local); err != nil {
		return nil, fmt.Errorf("transport: local address: %w", err)
	}
	if _, _, err := net.SplitHostPort(cfg.Remote); err != nil {
		return nil, fmt.Errorf("transport: remote address: %w", err)
	}
	for _, f := range []struct {
		name   string
		v, max int64
		unit   string
	}{
		{"SndBuf", int64(cfg.SndBuf), 10 << 20, "bytes"}, {"RcvBuf", int64(cfg.RcvBuf), 10 << 20, "bytes"},
		{"ConnectInterval", int64(cfg.ConnectInterval), int64(2 * time.Minute), "ns"},
		{"PingTimeout", int64(cfg.PingTimeout), int64(30 * time.Second), "ns"},
		{"SocketCheckTimeout", int64(cfg.SocketCheckTimeout), int64(30 * time.Second), "ns"},
	} {
		if f.v < 0 || f.v > f.max {
			return nil, fmt.Errorf("transport: %s is %d, want 0 to %d %s", f.name, f.v, f.max, f.unit)
		}
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &tcpStreams{
		network: "tcp",
		local:   cfg.Local, remote: cfg.Remote,
		sndBuf: cfg.SndBuf, rcvBuf: cfg.RcvBuf,
		allow: cfg.AllowRemote, log: log,
	}, nil
}

// keepAlive finds a peer that vanished while a stream is idle. DRBD's own pings are
// faster; this is for the case that nobody sends them.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 9}

// tune sets what every stream needs: no delay for small packets, keepalive, buffers.
func (s *tcpStreams) tune(c net.Conn) error {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	if err := t.SetNoDelay(true); err != nil {
		return err
	}
	if err := t.SetKeepAliveConfig(keepAlive); err != nil {
		return err
	}
	if s.sndBuf > 0 {
		if err := t.SetWriteBuffer(s.sndBuf); err != nil {
			return err
		}
	}
	if s.rcvBuf > 0 {
		return t.SetReadBuffer(s.rcvBuf)
	}
	return nil
}

// Dial implements Streams.
func (s *tcpStreams) Dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1}           // tune sets it
	host, _, _ := net.SplitHostPort(s.local) // newTCPStreams has checked it
	if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0))
	}
	c, err := d.DialContext(ctx, s.network, s.remote)
	if err != nil {
		return nil, err
	}
	if err := s.tune(c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Listen implements Streams.
func (s *tcpStreams) Listen(ctx context.Context) (net.Listener, error) {
	// The net package sets SO_REUSEADDR on Unix, so that connections of an earlier
	// pair that linger do not keep the port.
	lc := net.ListenConfig{KeepAlive: -1}
	ln, err := lc.Listen(ctx, s.network, s.local)
	if err != nil {
		return nil, err
	}
	return &tcpListener{Listener: ln, s: s}, nil
}

func (s *tcpStreams) String() string { return s.local + " <-> " + s.remote }

// tcpListener tunes what it accepts and drops what is not allowed.
type tcpListener struct {
	net.Listener
	s *tcpStreams
}

// Accept implements net.Listener.
func (l *tcpListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !l.allowed(c) {
			l.s.log.Warn("connection refused: its address is not allowed", "from", c.RemoteAddr().String())
			c.Close()
			continue
		}
		if err := l.s.tune(c); err != nil {
			c.Close() // the peer has gone already
			continue
		}
		return c, nil
	}
}

func (l *tcpListener) allowed(c net.Conn) bool {
	if l.s.allow == nil {
		return true
	}
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	return err == nil && l.s.allow(ap.Addr().Unmap())
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"
)

// Sentinel errors. They come wrapped with the two ends and what happened last;
// find them with errors.Is.
var (
	// ErrClosed: the transport or listener was closed. It is net.ErrClosed too.
	ErrClosed = fmt.Errorf("transport: %w", net.ErrClosed)
	// ErrConnecting: another Connect of the same transport is under way.
	ErrConnecting = errors.New("transport: a Connect of this transport is already under way")
	// ErrFirstPacket: a connection did not begin with P_INITIAL_DATA or P_INITIAL_META.
	ErrFirstPacket = errors.New("transport: the connection does not begin as DRBD's do")
	// ErrPeerIdentity: the peer's certificate is not that of the expected node.
	ErrPeerIdentity = errors.New("transport: the peer's certificate is not the expected node's")
	// ErrUnknownResource: the peer's shared listener has no resource of this name.
	ErrUnknownResource = errors.New("transport: the peer has no resource of this name")
	// ErrNotWaiting: the peer has the resource but does not wait for a connection now.
	ErrNotWaiting = errors.New("transport: the peer's resource is not waiting for a connection")
	// ErrPreface: a connection to or from a shared listener did not begin with a
	// valid preface.
	ErrPreface = errors.New("transport: not a connection of a blockmirror shared listener")
)

// Conn is one of the two streams of a Pair. Deadlines work. Where it is plain TCP,
// on Unix, it is a *net.TCPConn, so net.Buffers sends with one writev; elsewhere,
// and for TLS, join small pieces before writing.
type Conn = net.Conn

// Pair is one DRBD connection: two streams between the same two nodes (spec: wire
// 1.1). Whoever gets it owns it and closes both streams.
type Pair struct {
	Data Conn // handshake, writes, reads, resync, bitmap
	Meta Conn // acknowledgements, pings, replies to state requests
	// Resolver is true if this node accepted the meta stream: then it decides
	// ties. The peer computes the opposite (spec: wire 1.3).
	Resolver bool
	Local    string // this end, for people
	Remote   string // the other end, for people
}

// Close closes both streams. It may be called more than once, and while others
// read and write; their calls then fail.
func (p *Pair) Close() error {
	return errors.Join(ignoreClosed(p.Data.Close()), ignoreClosed(p.Meta.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Transport forms pairs with one peer, one at a time.
type Transport interface {
	// Connect forms one pair with the peer: it listens and dials until the two
	// nodes agree on two streams (spec: wire 1.3) or ctx ends; it has no time limit
	// of its own. When it returns it neither listens nor dials any more, and no
	// goroutine of it is left: a peer that dials a connected node is refused. The
	// pair's streams have no deadlines set and nothing but the first packets was
	// sent or read on them.
	//
	// If ctx ends, the error wraps ctx.Err() and the last thing that went wrong,
	// such as ErrPeerIdentity. A local address that cannot be listened on is
	// an error at once. During Connect a second one fails with ErrConnecting;
	// after Close it fails with ErrClosed.
	Connect(ctx context.Context) (*Pair, error)
	// Close ends a Connect that is under way and waits for it, and fails later
	// ones. Pairs that were formed stay open.
	Close() error
	// String names the two ends, for logs.
	String() string
}

// Streams is a network that single streams to and from one peer come from. New
// makes a Transport of any. Implementations are safe for concurrent use.
type Streams interface {
	// Dial opens one stream to the peer. It obeys ctx.
	Dial(ctx context.Context) (net.Conn, error)
	// Listen accepts streams from the peer until the listener is closed. Accept
	// must not wait for bytes of a new connection; a handshake happens in its
	// first Read.
	Listen(ctx context.Context) (net.Listener, error)
	// String names the two ends, for logs.
	String() string
}

// Waiter is an optional ability of a stream: to wait until it can be read without
// reading. *net.TCPConn needs none on Unix. A stream without it is wrapped, and the
// wrapper (which has a method NetConn) is what the Pair holds.
type Waiter interface {
	// WaitReadable returns nil when a Read would give at least one byte, and the
	// error that Read would give if the stream has ended or its read deadline has
	// passed.
	WaitReadable() error
}

// Default times, DRBD's own (spec: wire 1.4).
const (
	DefaultConnectInterval = 10 * time.Second
	DefaultPingTimeout     = 500 * time.Millisecond
)

// PairingConfig holds what the forming of a pair depends on, apart from the
// network. The zero value has DRBD's defaults.
type PairingConfig struct {
	// ConnectInterval limits one dial, and is the time between dials while the
	// peer does not answer, plus or minus a seventh at random (DRBD's connect-int).
	// 0 means DefaultConnectInterval.
	ConnectInterval time.Duration
	// PingTimeout: four times this is how long an accepted connection may take to
	// send its first packet (DRBD's ping-timeout). 0 means DefaultPingTimeout.
	PingTimeout time.Duration
	// SocketCheckTimeout is how long both streams must have lived before they count
	// as a pair (DRBD's socket-check-timeout). Every Connect takes at least this
	// long. It should exceed the round trip to the peer, since it is what tells
	// crossed connections from good ones. 0 means PingTimeout, as in DRBD. Between
	// two blockmirror nodes on one network a few milliseconds are enough.
	SocketCheckTimeout time.Duration
	// MaxPending limits the accepted connections whose first packet has not come; of
	// more the oldest is dropped. 0 means 16.
	MaxPending int
	// Rand gives random bits for jitter and for the coin that ends crossings. It
	// is called from one goroutine at a time. nil means math/rand/v2.
	Rand func() uint64
	// Logger receives what happens: Info for a formed pair, Warn for refused and
	// malformed connections, Debug for the rest. nil means none.
	Logger *slog.Logger
}

// withDefaults fills in what is not set.
func (c PairingConfig) withDefaults() PairingConfig {
	if c.ConnectInterval <= 0 {
		c.ConnectInterval = DefaultConnectInterval
	}
	if c.PingTimeout <= 0 {
		c.PingTimeout = DefaultPingTimeout
	}
	if c.SocketCheckTimeout <= 0 {
		c.SocketCheckTimeout = c.PingTimeout
	}
	if c.MaxPending <= 0 {
		c.MaxPending = 16
	}
	if c.Rand == nil {
		c.Rand = rand.Uint64
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// firstPacketTimeout is how long a new connection may take until its first packet
// is complete.
func (c *PairingConfig) firstPacketTimeout() time.Duration { return 4 * c.PingTimeout }

// jittered returns d plus or minus a seventh at random.
func (c *PairingConfig) jittered(d time.Duration) time.Duration {
	return d - d/7 + c.upTo(2*d/7)
}

// upTo returns a random duration of at least 0 and less than d.
func (c *PairingConfig) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(c.Rand() % uint64(d))
}

// coin is true half of the time.
func (c *PairingConfig) coin() bool { return c.Rand()>>63 == 1 }

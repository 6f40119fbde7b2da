// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// pairing is one Connect: the forming of one pair (spec: wire 1.3).
//
// Only the goroutine in run touches the fields below ctx; dials and first packets
// happen on goroutines that report to it:
//
//	accept loop --> first packet ---+
//	                                +--> events --> run --> Pair
//	dial ---------------------------+               ^
//	two watchers (a stream has ended) --------------+
//
// The rules, each as in DRBD's own loop:
//   - a dialled stream becomes data if there is none, else meta;
//   - an accepted stream is what its first packet says, and replaces one that is there;
//   - who accepted the meta stream is the resolver;
//   - a pair whose two streams both lived for the check interval is done.
//
// In addition: who accepts data dials meta at once; who dialled data gives the
// peer one check interval to dial meta, then dials it itself; and a stream that
// has died is noticed at once, upon which a random, growing pause breaks the symmetry
// of two nodes whose dials cross.
type pairing struct {
	streams Streams
	cfg     *PairingConfig
	log     *slog.Logger
	events  chan event
	pending pendingConns
	tasks   sync.WaitGroup

	ctx       context.Context // ends with run
	data      *half
	meta      *half
	resolver  bool
	dialing   bool
	deaths    int   // streams that ended before the pair was complete
	last      error // what went wrong last, for the caller
	dialTimer *time.Timer
	checking  *time.Timer
}

// event is something that happened on another goroutine.
type event struct {
	kind eventKind
	conn net.Conn // nil if err is set
	role role     // of an accepted conn
	err  error
}

type eventKind uint8

const (
	evDialled  eventKind = iota + 1 // a dial succeeded or failed
	evAccepted                      // a peer's stream sent its first packet
	evRefused                       // a peer's stream did not; err says why
	evNoListen                      // the listener is gone for good
)

func newPairing(s Streams, cfg *PairingConfig) *pairing {
	return &pairing{
		streams: s,
		cfg:     cfg,
		log:     cfg.Logger.With("connection", s.String()),
		events:  make(chan event),
		pending: pendingConns{max: cfg.MaxPending},
	}
}

// run forms the pair.
func (p *pairing) run(ctx context.Context) (*Pair, error) {
	if ctx.Err() != nil {
		return nil, p.failed(reason(ctx))
	}
	ln, err := p.streams.Listen(ctx)
	if err != nil {
		return nil, fmt.Errorf("transport: cannot listen for %s: %w", p.streams, err)
	}
	var cancel context.CancelFunc
	p.ctx, cancel = context.WithCancel(ctx)
	p.dialTimer = time.NewTimer(0)
	p.checking = time.NewTimer(0)
	p.checking.Stop()
	p.tasks.Add(1)
	go p.accept(ln)

	pair, err := p.loop(ctx)

	cancel()
	ln.Close()
	p.pending.closeAll()
	p.dialTimer.Stop()
	p.checking.Stop()
	if pair == nil {
		p.drop(&p.data)
		p.drop(&p.meta)
	}
	p.tasks.Wait()
	return pair, err
}

// loop handles events until the pair is complete or ctx ends.
func (p *pairing) loop(ctx context.Context) (*Pair, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, p.failed(reason(ctx))
		case ev := <-p.events:
			if ev.kind == evNoListen {
				return nil, p.failed(ev.err)
			}
			p.handle(ev)
		case <-p.dialTimer.C:
			p.dial()
		case <-p.data.death():
			p.died()
		case <-p.meta.death():
			p.died()
		case <-p.checking.C:
			if pair := p.complete(); pair != nil {
				return pair, nil
			}
		}
	}
}

// death is closed when h has ended. A nil half never does.
func (h *half) death() <-chan struct{} {
	if h == nil {
		return nil
	}
	return h.dead
}

// failed describes why there is no pair.
func (p *pairing) failed(why error) error {
	if p.last == nil || errors.Is(p.last, why) {
		return fmt.Errorf("transport: no connection %s: %w", p.streams, why)
	}
	return fmt.Errorf("transport: no connection %s: %w (last: %w)", p.streams, why, p.last)
}

func (p *pairing) handle(ev event) {
	switch ev.kind {
	case evDialled:
		p.dialled(ev.conn, ev.err)
	case evAccepted:
		p.accepted(ev.conn, ev.role)
	case evRefused:
		p.last = ev.err
	}
}

// dial starts a dial if one is wanted.
func (p *pairing) dial() {
	if p.dialing || p.data != nil && p.meta != nil {
		return
	}
	p.dialing = true
	p.tasks.Add(1)
	go func() {
		defer p.tasks.Done()
		ctx, cancel := context.WithTimeout(p.ctx, p.cfg.ConnectInterval)
		defer cancel()
		c, err := p.streams.Dial(ctx)
		p.report(event{kind: evDialled, conn: c, err: err})
	}()
}

// dialIn asks for a dial after d. The one under way counts as it.
func (p *pairing) dialIn(d time.Duration) {
	if !p.dialing {
		p.dialTimer.Reset(d)
	}
}

// report hands an event to run, or closes its stream if run has ended.
func (p *pairing) report(ev event) {
	select {
	case p.events <- ev:
	case <-p.ctx.Done():
		if ev.conn != nil {
			ev.conn.Close()
		}
	}
}

// dialled handles the end of a dial.
func (p *pairing) dialled(c net.Conn, err error) {
	p.dialing = false
	if err != nil {
		p.last = err
		p.note("dial failed", err)
		p.dialIn(p.cfg.jittered(p.cfg.ConnectInterval))
		return
	}
	p.reap()
	r, slot := roleData, &p.data
	switch {
	case p.data == nil:
	case p.meta == nil:
		r, slot = roleMeta, &p.meta
	default:
		c.Close() // the peer's dials were faster
		return
	}
	if err := sendInitial(c, r, p.cfg.firstPacketTimeout()); err != nil {
		c.Close()
		p.last = err
		p.pause()
		return
	}
	p.log.Debug("dialled", "stream", r.String())
	*slot = watch(c, true)
	if r == roleMeta {
		p.resolver = false
	}
	p.changed()
	// The peer is expected to dial the other stream. If it cannot, we do.
	p.dialIn(p.cfg.SocketCheckTimeout + p.cfg.upTo(p.cfg.SocketCheckTimeout))
}

// note logs a failure: as a warning if somebody must do something about it.
func (p *pairing) note(what string, err error) {
	level := slog.LevelDebug
	for _, e := range []error{ErrPeerIdentity, ErrCertificateRefused, ErrUnknownResource, ErrPreface} {
		if errors.Is(err, e) {
			level = slog.LevelWarn
		}
	}
	p.log.Log(p.ctx, level, what, "err", err)
}

// sendInitial sends the first packet of a stream that was dialled.
func sendInitial(c net.Conn, r role, limit time.Duration) error {
	var b [initialSize]byte
	if err := c.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := c.Write(appendInitial(b[:0], r)); err != nil {
		return err
	}
	return c.SetWriteDeadline(time.Time{})
}

// accepted handles a stream of the peer whose first packet has come.
func (p *pairing) accepted(c net.Conn, r role) {
	p.reap()
	if t, ok := c.(*net.TCPConn); ok {
		if err := endedTCP(t); err != nil {
			// The peer has given it up already, after a crossing.
			p.last = err
			c.Close()
			return
		}
	}
	p.log.Debug("accepted", "stream", r.String(), "from", c.RemoteAddr().String())
	slot := &p.data
	if r == roleMeta {
		slot = &p.meta
		p.resolver = true
	}
	crossed := *slot != nil
	if crossed {
		p.log.Debug("connections crossed, the peer's is kept", "stream", r.String())
		p.drop(slot)
	}
	*slot = watch(c, false)
	p.changed()
	switch {
	case r == roleData && (!crossed || p.cfg.coin()):
		p.dialIn(0)
	default:
		p.dialIn(p.cfg.SocketCheckTimeout + p.cfg.upTo(p.cfg.SocketCheckTimeout))
	}
}

// died handles the end of a stream that was held.
func (p *pairing) died() {
	p.reap()
	p.pause()
}

// pause asks for the next dial after a random time that grows with every stream
// that died, up to the connect interval: two nodes whose dials cross get out of
// step, and a peer that refuses us is not bothered much.
func (p *pairing) pause() {
	p.deaths++
	limit := p.cfg.SocketCheckTimeout << min(p.deaths/2, 20)
	if limit <= 0 || limit > p.cfg.ConnectInterval {
		limit = p.cfg.ConnectInterval
	}
	p.dialIn(p.cfg.upTo(limit))
}

// reap forgets the streams that the peer has closed.
func (p *pairing) reap() {
	for _, slot := range []**half{&p.data, &p.meta} {
		if h := *slot; h != nil && h.isDead() {
			err := fmt.Errorf("the peer closed a connection: %w", explainTLS(h.err))
			if !errors.Is(err, io.EOF) || p.last == nil {
				p.last = err
			}
			p.note("connection lost before the pair was complete", err)
			p.drop(slot)
			p.changed()
		}
	}
}

func (p *pairing) drop(slot **half) {
	if *slot != nil {
		(*slot).close()
		*slot = nil
	}
}

// changed starts the check interval anew, or ends it, after a change of streams.
func (p *pairing) changed() {
	if p.data != nil && p.meta != nil {
		p.dialTimer.Stop()
		p.checking.Reset(p.cfg.SocketCheckTimeout)
	} else {
		p.checking.Stop()
	}
}

// complete returns the pair if both its streams have lived through the check
// interval.
func (p *pairing) complete() *Pair {
	if p.data == nil || p.meta == nil {
		return nil
	}
	derr, merr := p.data.stop(), p.meta.stop()
	if derr != nil || merr != nil {
		for _, h := range []*half{p.data, p.meta} {
			if !h.isDead() {
				h.start() // one that is broken is found dead at once
			}
		}
		p.died()
		return nil
	}
	pair := &Pair{
		Data:     p.data.conn,
		Meta:     p.meta.conn,
		Resolver: p.resolver,
		Local:    p.data.conn.LocalAddr().String(),
		Remote:   p.data.conn.RemoteAddr().String(),
	}
	p.log.Info("connected", "local", pair.Local, "remote", pair.Remote, "resolver", pair.Resolver)
	return pair
}

// accept takes the peer's connections until the listener is closed.
func (p *pairing) accept(ln net.Listener) {
	defer p.tasks.Done()
	acceptLoop(p.ctx, ln, &p.pending, p.log, func(c net.Conn) {
		p.tasks.Add(1)
		go p.first(c)
	})
	p.report(event{kind: evNoListen, err: ErrClosed}) // unheard if run has ended
}

// acceptLoop notes every connection of ln as pending and hands it to use, until ln
// is closed.
func acceptLoop(ctx context.Context, ln net.Listener, pending *pendingConns, log *slog.Logger, use func(net.Conn)) {
	for pauses := 0; ; {
		c, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed) || err != nil && ctx.Err() != nil:
			return
		case err != nil:
			// Out of descriptors, as a rule. Others may free some.
			log.Warn("cannot accept connections", "err", err)
			pauses++
			if !sleep(ctx, min(time.Second, 5*time.Millisecond<<min(pauses, 10))) {
				return
			}
			continue
		}
		pauses = 0
		ok, evicted := pending.add(c)
		if evicted != nil {
			log.Warn("too many connections that do not say what they are, the oldest was dropped",
				"from", evicted.RemoteAddr().String())
		}
		if ok {
			use(c)
		}
	}
}

// sleep waits for d and returns true, or false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// first reads the first packet of a connection that was accepted.
func (p *pairing) first(c net.Conn) {
	defer p.tasks.Done()
	r, err := readInitial(c, p.cfg.firstPacketTimeout())
	if !p.pending.remove(c) {
		return // evicted, or run has ended; closed either way
	}
	if err != nil {
		err = fmt.Errorf("connection from %s: %w", c.RemoteAddr(), explainTLS(err))
		p.log.Warn("connection refused: no valid first packet", "from", c.RemoteAddr().String(), "err", err)
		c.Close()
		p.report(event{kind: evRefused, err: err})
		return
	}
	p.report(event{kind: evAccepted, conn: c, role: r})
}

// readInitial reads a first packet within limit. It takes no byte more.
func readInitial(c net.Conn, limit time.Duration) (role, error) {
	// Both directions, because a TLS handshake writes too.
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return 0, err
	}
	var b [initialSize]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, err
	}
	r, err := decodeInitial(b[:])
	if err != nil {
		return 0, err
	}
	return r, c.SetDeadline(time.Time{})
}

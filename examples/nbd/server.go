// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// Config is a server's configuration. Its zero value serves in plain text.
type Config struct {
	// TLS is what STARTTLS offers, at least version 1.3; see TLSFiles. nil for no TLS.
	TLS *tls.Config
	// AllowPlain lets clients do without TLS although there is one. Without it they
	// are told that TLS is required.
	AllowPlain bool

	// MaxConns is how many clients may be connected; 0 stands for 256. Who comes
	// then is disconnected at once.
	MaxConns int
	// MaxRequests is how many requests of a connection may be under way; 0 stands
	// for 128.
	MaxRequests int
	// MaxBytes is how much data these may have, in bytes, at least the largest
	// request of 32 MiB, which 0 stands for. All connections together may have
	// MaxConns times that.
	MaxBytes int64
	// HandshakeTimeout is how long a client may take for the handshake, without the
	// time that Export.Open takes; 0 stands for 30 s.
	HandshakeTimeout time.Duration

	// Logger receives what happens; nil discards it.
	Logger *slog.Logger
}

// Server serves exports on any number of listeners. Its methods are safe for
// concurrent use.
type Server struct {
	cfg     Config
	log     *slog.Logger
	buffers buffers
	closing chan struct{} // closed by the first Shutdown or Close
	wg      sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	exports   map[string]*export
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
}

// NewServer returns a server without exports, that does nothing before Serve or
// ServeConn is called.
func NewServer(cfg Config) (*Server, error) {
	if cfg.MaxConns < 0 || cfg.MaxRequests < 0 || cfg.HandshakeTimeout < 0 || (cfg.MaxBytes != 0 && cfg.MaxBytes < maxBlock) {
		return nil, fmt.Errorf("nbd: invalid configuration: no limit may be negative, and MaxBytes is 0 or at least %d", maxBlock)
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 256
	}
	if cfg.MaxRequests == 0 {
		cfg.MaxRequests = 128
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = maxBlock
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = 30 * time.Second
	}
	if cfg.TLS != nil {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.MinVersion = max(cfg.TLS.MinVersion, tls.VersionTLS13)
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, log: log, closing: make(chan struct{}),
		exports: map[string]*export{}, conns: map[*conn]struct{}{}, listeners: map[net.Listener]struct{}{},
	}, nil
}

// Add brings an export into service. It returns an error that wraps ErrExport if the
// name is taken or the export cannot be, and ErrServerClosed after Shutdown.
func (s *Server) Add(e Export) error {
	exp, err := newExport(e)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrServerClosed
	}
	if s.exports[e.Name] != nil {
		return fmt.Errorf("%w: there is one named %q already", ErrExport, e.Name)
	}
	s.exports[e.Name] = exp
	return nil
}

// Remove takes an export out of service: new clients do not find it, and those it has
// get the replies to the requests under way and are disconnected. It returns when the
// last one has gone and Export.Close has returned. When ctx ends before that, the
// contexts of their requests end and Remove returns ctx's error when they have. An
// export that is not there is ErrUnknownExport.
func (s *Server) Remove(ctx context.Context, name string) error {
	s.mu.Lock()
	e := s.exports[name]
	if e == nil {
		s.mu.Unlock()
		return fmt.Errorf("%w %q", ErrUnknownExport, name)
	}
	delete(s.exports, name)
	conns := keys(e.conns)
	s.mu.Unlock()
	return endAll(ctx, conns)
}

// Exports returns the names of the exports, sorted.
func (s *Server) Exports() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := keys(s.exports)
	slices.Sort(names)
	return names
}

// Serve accepts clients on l until the server is shut down or l fails, and returns
// ErrServerClosed or what l returned. It closes l.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.Join(ErrServerClosed, l.Close())
	}
	s.listeners[l] = struct{}{}
	s.wg.Add(1) // Close waits until this has returned
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
		l.Close() // a second time after Shutdown: its error says nothing
		s.wg.Done()
	}()
	for {
		nc, err := l.Accept()
		if err == nil {
			s.begin(nc)
			continue
		}
		select {
		case <-s.closing:
			return ErrServerClosed
		default:
		}
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() && !isTemporary(err) {
			return err
		}
		s.log.Warn("nbd: accept failed, trying again", "err", err)
		select {
		case <-s.closing:
			return ErrServerClosed
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// begin serves a connection on a goroutine of its own.
func (s *Server) begin(nc net.Conn) {
	c, err := s.register(nc)
	if err != nil {
		s.log.Warn("nbd: client refused", "remote", nc.RemoteAddr(), "err", err)
		nc.Close()
		return
	}
	go func() {
		defer s.wg.Done()
		c.log.Info("nbd: client connected")
		err := c.serve()
		c.log.Info("nbd: client gone", "err", err)
	}()
}

// ServeConn serves one client on a connection and returns when it has gone: nil if it
// said so or the server shut down, an error that wraps ErrProtocol if it broke the
// protocol, else what the connection returned. It closes nc.
func (s *Server) ServeConn(nc net.Conn) error {
	c, err := s.register(nc)
	if err != nil {
		nc.Close()
		return err
	}
	defer s.wg.Done()
	return c.serve()
}

// register makes a conn of a connection. Who serves it calls s.wg.Done.
func (s *Server) register(nc net.Conn) (*conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrServerClosed
	}
	if len(s.conns) >= s.cfg.MaxConns {
		return nil, fmt.Errorf("nbd: there are %d clients already (MaxConns)", len(s.conns))
	}
	c := newConn(s, nc)
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	return c, nil
}

// unregister forgets a conn.
func (s *Server) unregister(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if c.export != nil {
		delete(c.export.conns, c)
	}
}

// leave makes a conn none of its export's.
func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(c.export.conns, c)
	c.export = nil
}

// lookup finds an export. With a conn it becomes one of the export's, whether or not
// it is let in, so that Remove finds it.
func (s *Server) lookup(name string, c *conn) *export {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.exports[name]
	if e != nil && c != nil {
		if c.export != nil {
			delete(c.export.conns, c)
		}
		c.export = e
		e.conns[c] = struct{}{}
	}
	return e
}

// Shutdown ends the service gently: no new clients, no new requests; those under way
// are answered, and the clients disconnected. It returns when all goroutines of the
// server have ended and every Export.Close has returned. When ctx ends before that, it
// does as Close and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	err := endAll(ctx, s.shut())
	s.wg.Wait()
	return err
}

// Close ends the service at once: connections are closed, the contexts of requests
// end. It returns when all goroutines of the server have ended, which takes as long as
// the backends' and the hooks' calls do. A second Close does nothing but wait.
func (s *Server) Close() error {
	for _, c := range s.shut() {
		c.abort()
	}
	s.wg.Wait()
	return nil
}

// shut lets nobody in any more, and returns who is there.
func (s *Server) shut() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.closing)
		for l := range s.listeners {
			l.Close()
		}
	}
	return keys(s.conns)
}

// endAll ends connections gently, and hard when ctx ends; it waits for all of them.
func endAll(ctx context.Context, conns []*conn) error {
	for _, c := range conns {
		c.stop()
	}
	var err error
	for _, c := range conns {
		select {
		case <-c.done:
			continue
		case <-ctx.Done():
		}
		err = ctx.Err()
		for _, c := range conns {
			c.abort()
		}
		<-c.done
	}
	return err
}

func keys[K comparable, V any](m map[K]V) []K {
	list := make([]K, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	return list
}

// isTemporary reports whether Accept may succeed later, as when the process has too
// many open files.
func isTemporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

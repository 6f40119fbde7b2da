// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// What a client of an HTTP server may take and have.
const (
	headerTimeout = 10 * time.Second // for the header of a request
	idleTimeout   = time.Minute      // between two requests
	maxHeader     = 16 << 10         // bytes
	maxConns      = 256              // from the network at one time; who comes then is disconnected at once
	maxCommands   = 4096             // the same of the control socket: hundreds of wait-connect are fine
)

// ServeHTTP serves a handler on a listener, over TLS if sec is not nil, until ctx ends. Requests see ctx end, and
// have a second then.
func ServeHTTP(ctx context.Context, l net.Listener, sec *tls.Config, h http.Handler) error {
	l = &limited{Listener: l, slots: make(chan struct{}, maxConns)}
	if sec != nil {
		l = tls.NewListener(l, sec)
	}
	return serve(ctx, l, h)
}

func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog:    log.New(io.Discard, "", 0), // what clients do wrong
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if srv.Shutdown(end) != nil {
		_ = srv.Close()
	}
	<-done
	return nil
}

// limited is a listener with at most so many connections at one time.
type limited struct {
	net.Listener
	slots chan struct{}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &limitedConn{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			_ = c.Close()
		}
	}
}

type limitedConn struct {
	net.Conn
	free func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}

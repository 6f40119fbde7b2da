// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"
)

// kernelModel forms a pair as the kernel does: a transcription of the loop in spec:
// wire 1.3, one thing after another on one goroutine.
type kernelModel struct {
	local, remote string
	noDial        bool // its dials go nowhere, as behind a firewall
	noListen      bool // nobody can reach its port
	connectInt    time.Duration
	pingTimeout   time.Duration
	rand          *rand.Rand

	ln         net.Listener
	data, meta net.Conn
	resolver   bool
}

func (k *kernelModel) connect(ctx context.Context) (*Pair, error) {
	if !k.noListen {
		ln, err := net.Listen("tcp", k.local)
		if err != nil {
			return nil, err
		}
		k.ln = ln
		defer ln.Close() // the socket exists only while there is no connection
	}
	for ctx.Err() == nil {
		if s := k.dial(ctx); s != nil {
			if k.data == nil {
				k.data = s
				_, _ = s.Write(appendInitial(nil, roleData))
			} else {
				k.drop(&k.meta)
				k.meta = s
				_, _ = s.Write(appendInitial(nil, roleMeta))
				k.resolver = false
			}
		}
		if k.bothAlive(ctx) {
			break
		}
		for k.acceptOne(ctx) {
		}
		if k.bothAlive(ctx) {
			break
		}
	}
	if ctx.Err() != nil {
		k.drop(&k.data)
		k.drop(&k.meta)
		return nil, ctx.Err()
	}
	return &Pair{Data: k.data, Meta: k.meta, Resolver: k.resolver}, nil
}

func (k *kernelModel) dial(ctx context.Context) net.Conn {
	if k.noDial {
		return nil
	}
	d := net.Dialer{Timeout: k.connectInt}
	s, err := d.DialContext(ctx, "tcp", k.remote)
	if err != nil {
		return nil
	}
	return s
}

// bothAlive sleeps for the check interval if there are two sockets.
func (k *kernelModel) bothAlive(ctx context.Context) bool {
	if k.data == nil || k.meta == nil {
		return false
	}
	return sleep(ctx, k.pingTimeout) && alive(k.data) && alive(k.meta)
}

func alive(c net.Conn) bool { return endedTCP(c.(*net.TCPConn)) == nil }

func (k *kernelModel) drop(c *net.Conn) {
	if *c != nil {
		(*c).Close()
		*c = nil
	}
}

// acceptOne waits for one incoming connection and returns true if it should be
// called again.
func (k *kernelModel) acceptOne(ctx context.Context) (again bool) {
	wait := k.connectInt - k.connectInt/7 + time.Duration(k.rand.Int64N(int64(2*k.connectInt/7)+1))
	if k.noListen {
		sleep(ctx, wait)
		return false
	}
	stop := context.AfterFunc(ctx, func() { k.ln.(*net.TCPListener).SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = k.ln.(*net.TCPListener).SetDeadline(time.Now().Add(wait))
	s, err := k.ln.Accept()
	if err != nil {
		return false
	}
	r, err := readInitial(s, 4*k.pingTimeout)
	if k.data != nil && !alive(k.data) {
		k.drop(&k.data)
	}
	if k.meta != nil && !alive(k.meta) {
		k.drop(&k.meta)
	}
	slot := &k.data
	switch {
	case err != nil:
		s.Close()
		return k.rand.IntN(2) == 0 && !errors.Is(err, net.ErrClosed)
	case r == roleMeta:
		k.resolver = true
		slot = &k.meta
	}
	if *slot != nil {
		k.drop(slot)
		again = k.rand.IntN(2) == 0
	}
	*slot = s
	return again
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one client.
type conn struct {
	s   *Server
	log *slog.Logger
	raw net.Conn      // what was accepted
	nc  net.Conn      // raw, or TLS over it; changes in the handshake only
	r   *bufio.Reader // of nc

	ctx    context.Context // of requests: ends with abort
	cancel context.CancelFunc
	soft   context.Context // of everything else: ends with stop too
	relax  context.CancelFunc
	done   chan struct{} // closed when serve has returned

	stopMu       sync.Mutex // guards deadlines against stop
	stopping     bool
	handshakeEnd time.Time

	export *export // guarded by Server.mu until the handshake is over
	negotiated

	budget  *budget
	wg      sync.WaitGroup
	waiting atomic.Int32 // workers that would read

	readMu  sync.Mutex // guards r and what follows
	workers int
	ended   bool  // nothing more is read
	readErr error // why, nil for no fault of anybody
	head    [requestHeaderSize]byte

	writeMu sync.Mutex // guards writing to nc and what follows
	scratch []byte
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		s: s, raw: nc, nc: nc, r: bufio.NewReaderSize(nc, 32<<10), done: make(chan struct{}),
		budget: newBudget(s.cfg.MaxBytes), log: s.log.With("remote", nc.RemoteAddr()),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.soft, c.relax = context.WithCancel(c.ctx)
	return c
}

// serve is the life of a connection.
func (c *conn) serve() error {
	defer close(c.done)
	defer c.s.unregister(c)
	defer c.cancel()
	entered, err := c.handshake()
	if entered {
		err = errors.Join(err, c.transmit())
	}
	c.nc.Close() // all that matters was said before: a client that waits for more waits in vain
	if entered {
		if err := c.export.release(); err != nil {
			c.log.Error("nbd: the export's Close failed", "export", c.export.Name, "err", err)
		}
	}
	if c.isStopping() {
		return nil
	}
	return err
}

// stop ends the connection when the requests under way are done.
func (c *conn) stop() {
	c.stopMu.Lock()
	c.stopping = true
	c.raw.SetReadDeadline(time.Unix(1, 0)) // whoever reads returns; an error means that nobody can
	c.stopMu.Unlock()
	c.relax()
}

// abort ends the connection now.
func (c *conn) abort() {
	c.stop()
	c.cancel()
	c.raw.Close()
}

func (c *conn) isStopping() bool {
	c.stopMu.Lock()
	defer c.stopMu.Unlock()
	return c.stopping
}

// deadline limits until when the client may take, the zero time for as long as it likes.
func (c *conn) deadline(t time.Time) {
	c.stopMu.Lock()
	defer c.stopMu.Unlock()
	c.raw.SetWriteDeadline(t)
	if !c.stopping {
		c.raw.SetReadDeadline(t)
	}
}

// transmit serves requests until there are no more, and all have been answered.
func (c *conn) transmit() error {
	c.deadline(time.Time{})
	c.workers = 1
	c.wg.Add(1)
	c.worker()
	c.wg.Wait()
	return c.readErr
}

// worker reads a request, lets another worker read on, and does it.
func (c *conn) worker() {
	defer c.wg.Done()
	for {
		c.waiting.Add(1)
		c.readMu.Lock()
		c.waiting.Add(-1)
		j, ok := c.receive()
		if ok && c.waiting.Load() == 0 && c.workers < c.s.cfg.MaxRequests {
			c.workers++
			c.wg.Add(1)
			go c.worker()
		}
		c.readMu.Unlock()
		if !ok {
			return
		}
		c.perform(&j)
		if j.buf != nil {
			n := int64(len(j.buf.data))
			c.s.buffers.put(j.buf)
			c.budget.give(n)
		}
	}
}

// receive reads a request and its data, and reports whether there is one. The caller
// holds readMu.
func (c *conn) receive() (j job, ok bool) {
	if c.ended {
		return job{}, false
	}
	j, err := c.readRequest()
	if err != nil {
		c.ended = true
		if err != errDisconnect && !c.isStopping() {
			c.readErr = err
		}
		return job{}, false
	}
	return j, true
}

// errDisconnect is a client that has nothing more to say.
var errDisconnect = errors.New("nbd: the client disconnects")

func (c *conn) readRequest() (job, error) {
	if _, err := io.ReadFull(c.r, c.head[:]); err != nil {
		if err == io.EOF {
			return job{}, errDisconnect // impolite, and common
		}
		return job{}, err
	}
	req, ok := decodeRequest(c.head[:])
	if !ok {
		return job{}, fmt.Errorf("%w: a request does not begin with its magic number", ErrProtocol)
	}
	if req.command == cmdDisc {
		return job{}, errDisconnect
	}
	j := job{request: req}
	j.err = c.check(&req)
	if req.command == cmdWrite {
		return j, c.readPayload(&j)
	}
	if req.command == cmdRead && j.err == nil {
		return j, c.reserve(&j)
	}
	return j, nil
}

// readPayload reads what is to be written, or skips it.
func (c *conn) readPayload(j *job) error {
	if j.length > maxBlock {
		return fmt.Errorf("%w: a write of %d bytes, %d is the most", ErrProtocol, j.length, maxBlock)
	}
	if j.err != nil {
		_, err := c.r.Discard(int(j.length))
		return err
	}
	if err := c.reserve(j); err != nil {
		return err
	}
	if _, err := io.ReadFull(c.r, j.buf.data); err != nil {
		c.s.buffers.put(j.buf)
		return err
	}
	return nil
}

// reserve gives a job its buffer, as soon as that fits.
func (c *conn) reserve(j *job) error {
	if !c.budget.take(int64(j.length), c.soft.Done()) {
		return c.soft.Err()
	}
	j.buf = c.s.buffers.get(int(j.length))
	return nil
}

// send writes one reply. A client that cannot be written to is gone.
func (c *conn) send(b []byte) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.write(b)
}

// write is send for who holds writeMu.
func (c *conn) write(b []byte) {
	if _, err := c.nc.Write(b); err != nil {
		c.log.Debug("nbd: a reply could not be sent", "err", err)
		c.raw.Close() // ends the reader too
	}
}

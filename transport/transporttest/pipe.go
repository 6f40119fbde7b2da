// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ErrReset is what reads and writes of a reset connection return, wrapped: the
// system's "connection reset by peer".
var ErrReset error = syscall.ECONNRESET

// pipe is one direction of a connection: a ring of bytes between a writer and a
// reader.
//
//	             ring, at most limit bytes
//	Write --> [ ready | on their way (marks) | free ] --> Read takes from ready
type pipe struct {
	path  *Path // the way of the bytes
	back  *Path // the way of the news that nobody reads
	limit int

	mu    sync.Mutex
	moved sync.Cond // anything below changed
	ring  []byte
	start int    // of the oldest byte in ring
	held  int    // bytes in ring
	ready int    // of them, those that have arrived
	marks []mark // the others, in order
	timer *time.Timer

	fin        bool  // the writer closed its direction
	finArrived bool  // and the reader may know
	readerGone bool  // the reader closed the connection
	broken     error // the connection was reset
	read       deadline
	write      deadline
}

// mark is n bytes that arrive at a time. n == 0 is the end of the stream.
type mark struct {
	n  int
	at time.Time
}

// deadline is a moment from which calls fail. The timer wakes those that wait.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func newPipe(path, back *Path, limit int) *pipe {
	p := &pipe{path: path, back: back, limit: limit}
	p.moved.L = &p.mu
	return p
}

// Write appends b, waiting for room. After the n-th byte that the path or the
// connection allows it calls cut, without locks, and fails.
func (p *pipe) Write(b []byte, allow func(n int) (allowed int, cut func())) (int, error) {
	done := 0
	p.mu.Lock()
	for {
		if err := p.writeErrorLocked(); err != nil {
			p.mu.Unlock()
			return done, err
		}
		if done == len(b) {
			p.mu.Unlock()
			return done, nil
		}
		room := min(p.limit-p.held, len(b)-done)
		if room == 0 {
			p.moved.Wait()
			continue
		}
		n, cut := allow(room)
		if n > 0 {
			p.putLocked(b[done : done+n])
			done += n
		}
		if cut != nil {
			p.mu.Unlock()
			cut()
			return done, ErrReset
		}
	}
}

func (p *pipe) writeErrorLocked() error {
	switch {
	case p.fin:
		return net.ErrClosed
	case p.broken != nil:
		return p.broken
	case p.readerGone && !p.path.isStalled() && !p.back.isStalled():
		return ErrReset
	case p.write.passed():
		return os.ErrDeadlineExceeded
	}
	return nil
}

// putLocked copies b into the ring and sends it on its way.
func (p *pipe) putLocked(b []byte) {
	if p.held+len(b) > len(p.ring) {
		p.growLocked(p.held + len(b))
	}
	at := (p.start + p.held) % len(p.ring)
	n := copy(p.ring[at:], b)
	copy(p.ring, b[n:])
	p.held += len(b)
	p.sendLocked(len(b))
}

func (p *pipe) growLocked(need int) {
	size := max(4096, len(p.ring))
	for size < need {
		size *= 2
	}
	ring := make([]byte, size)
	n := copy(ring, p.ring[p.start:min(p.start+p.held, len(p.ring))])
	copy(ring[n:], p.ring[:p.held-n])
	p.ring, p.start = ring, 0
}

// sendLocked lets n bytes arrive when the path says, the end of the stream if n is 0.
func (p *pipe) sendLocked(n int) {
	at, now := p.path.arrival(n)
	if now && len(p.marks) == 0 {
		p.arriveLocked(n)
		p.moved.Broadcast()
		return
	}
	p.marks = append(p.marks, mark{n: n, at: at})
	if len(p.marks) == 1 {
		p.deliverLocked()
	}
}

func (p *pipe) arriveLocked(n int) {
	if n == 0 {
		p.finArrived = true
	}
	p.ready += n
}

// deliver moves what is due to the reader.
func (p *pipe) deliver() {
	p.mu.Lock()
	p.deliverLocked()
	p.mu.Unlock()
}

func (p *pipe) deliverLocked() {
	p.moved.Broadcast()
	for len(p.marks) > 0 && !p.path.isStalled() {
		if wait := time.Until(p.marks[0].at); wait > 0 {
			if p.timer == nil {
				p.timer = time.AfterFunc(wait, p.deliver)
			} else {
				p.timer.Reset(wait)
			}
			return
		}
		p.arriveLocked(p.marks[0].n)
		p.marks = p.marks[1:]
	}
}

// waitReadable waits until Read would not wait.
func (p *pipe) waitReadable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waitReadableLocked()
}

func (p *pipe) waitReadableLocked() error {
	for {
		switch {
		case p.readerGone:
			return net.ErrClosed
		case p.read.passed():
			return os.ErrDeadlineExceeded
		case p.ready > 0:
			return nil
		case p.finArrived:
			return io.EOF
		case p.broken != nil:
			return p.broken
		}
		p.moved.Wait()
	}
}

// Read takes what has arrived. What arrived before a reset can still be read.
func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.waitReadableLocked(); err != nil {
		return 0, err
	}
	n := min(len(b), p.ready)
	k := copy(b[:n], p.ring[p.start:])
	copy(b[k:n], p.ring)
	p.start = (p.start + n) % len(p.ring)
	p.held -= n
	p.ready -= n
	p.moved.Broadcast()
	return n, nil
}

// closeWrite ends the stream behind what was written.
func (p *pipe) closeWrite() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fin {
		return
	}
	p.fin = true
	p.moved.Broadcast()
	if p.broken == nil {
		p.sendLocked(0)
	}
}

// closeRead says that nobody reads any more.
func (p *pipe) closeRead() {
	p.mu.Lock()
	p.readerGone = true
	p.moved.Broadcast()
	p.mu.Unlock()
}

// reset breaks the direction: bytes on their way are lost.
func (p *pipe) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return
	}
	p.broken = ErrReset
	for _, m := range p.marks {
		p.held -= m.n
	}
	p.marks = nil
	if p.timer != nil {
		p.timer.Stop()
	}
	p.moved.Broadcast()
}

// setDeadline sets one of the two deadlines.
func (p *pipe) setDeadline(d *deadline, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			p.moved.Broadcast()
			p.mu.Unlock()
		})
	}
	p.moved.Broadcast()
}

// stopTimer ends a deadline whose side was closed.
func (p *pipe) stopTimer(d *deadline) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
)

var (
	// ErrInjected is what a Fault returns when it names no other error.
	ErrInjected = errors.New("blockdev: injected fault")
	// ErrPowerLost: the Faulty had its Crash and was not restarted.
	ErrPowerLost = errors.New("blockdev: power lost")
	// ErrNoSpace is the system's error for a full disk, for use in a Fault.
	ErrNoSpace error = syscall.ENOSPC
)

// Fault describes which requests a Faulty spoils, and how. The zero value fails
// every request with ErrInjected.
type Fault struct {
	// Kinds are the kinds of request it is about; none means all. A write with FUA
	// is an OpWrite.
	Kinds []OpKind
	// Off and Len limit it to requests that touch these bytes of the device. Len 0
	// means everywhere; a flush touches no bytes.
	Off, Len int64
	// Skip lets this many matching requests pass first.
	Skip int
	// Times is how many matching requests it spoils before it is used up. 0 means
	// all.
	Times int
	// Err is the error. nil means ErrInjected, unless Hang is set.
	Err error
	// Hang holds the request until the fault is removed. Then it goes on, or fails
	// if Err is set.
	Hang bool
	// Partial, for writes, lets so many bytes of it through to the device before it
	// fails, a multiple of SectorSize.
	Partial int64
	// After does the request in full before it fails: the error lies.
	After bool
}

// Request is what a Faulty tells its observer.
type Request struct {
	Kind   OpKind
	Off, N int64 // bytes; 0 for a flush
	FUA    bool
}

// Faulty is a Device for tests that passes requests to another one and spoils
// them as it is told: errors, hanging requests, and, with VolatileCache, power cuts
// that lose what was not flushed. All methods are safe for concurrent use.
//
// Not modelled: bits that rot on the medium, writes that go to the wrong place,
// and a cache that lies about a Flush that succeeded.
type Faulty struct {
	dev Device

	mu      sync.Mutex
	faults  []*activeFault
	counts  map[OpKind]int
	observe func(Request)
	cache   *volatileCache // nil: none
	dead    bool           // between Crash and Restart
	closed  bool
	hung    int
	wake    sync.Cond // hung or faults changed
}

type activeFault struct {
	Fault
	seen    int
	removed bool
}

var (
	_ Device     = (*Faulty)(nil)
	_ Discarder  = (*Faulty)(nil)
	_ ZeroWriter = (*Faulty)(nil)
	_ FUAWriter  = (*Faulty)(nil)
	_ Limiter    = (*Faulty)(nil)
)

// NewFaulty wraps dev. Without any Fault it behaves as dev does.
func NewFaulty(dev Device) *Faulty {
	f := &Faulty{dev: dev, counts: make(map[OpKind]int)}
	f.wake.L = &f.mu
	return f
}

// Inject adds a fault and returns a function that removes it and releases the
// requests that hang on it. If several faults match a request the oldest acts.
func (f *Faulty) Inject(fault Fault) (remove func()) {
	a := &activeFault{Fault: fault}
	f.mu.Lock()
	f.faults = append(f.faults, a)
	f.mu.Unlock()
	return func() {
		f.mu.Lock()
		f.removeLocked(a)
		f.mu.Unlock()
	}
}

// Heal removes all faults and releases all requests that hang.
func (f *Faulty) Heal() {
	f.mu.Lock()
	for len(f.faults) > 0 {
		f.removeLocked(f.faults[0])
	}
	f.mu.Unlock()
}

func (f *Faulty) removeLocked(a *activeFault) {
	a.removed = true
	for i, x := range f.faults {
		if x == a {
			f.faults = append(f.faults[:i:i], f.faults[i+1:]...)
			break
		}
	}
	f.wake.Broadcast()
}

// WaitHung returns when at least n requests hang.
func (f *Faulty) WaitHung(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.hung < n {
		f.wake.Wait()
	}
}

// Count returns how many requests of a kind there were, spoiled ones included.
func (f *Faulty) Count(kind OpKind) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[kind]
}

// Observe calls fn for every request before it is done, on the goroutine that makes
// it and one at a time. fn must not use the Faulty. nil ends it.
func (f *Faulty) Observe(fn func(Request)) {
	f.mu.Lock()
	f.observe = fn
	f.mu.Unlock()
}

// enter counts a request and finds out what to do about it: the fault that spoils
// it, or nil. It waits while the request hangs.
func (f *Faulty) enter(r Request) (*activeFault, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, ErrClosed
	}
	f.counts[r.Kind]++
	if f.observe != nil {
		f.observe(r)
	}
	a := f.matchLocked(r)
	if a != nil && a.Hang {
		f.hung++
		f.wake.Broadcast()
		for !a.removed && !f.dead {
			f.wake.Wait()
		}
		f.hung--
	}
	if f.dead {
		return nil, fmt.Errorf("%v of %d bytes at %d: %w", r.Kind, r.N, r.Off, ErrPowerLost)
	}
	if a != nil && a.Hang && a.Err == nil {
		return nil, nil
	}
	return a, nil
}

// matchLocked returns the oldest fault that spoils r, and uses it up as told.
func (f *Faulty) matchLocked(r Request) *activeFault {
	for _, a := range f.faults {
		if !a.matches(r) {
			continue
		}
		a.seen++
		if a.seen <= a.Skip || a.Times > 0 && a.seen > a.Skip+a.Times {
			continue
		}
		return a
	}
	return nil
}

func (a *activeFault) matches(r Request) bool {
	kind := len(a.Kinds) == 0
	for _, k := range a.Kinds {
		kind = kind || k == r.Kind
	}
	return kind && (a.Len == 0 || r.Off < a.Off+a.Len && a.Off < r.Off+r.N)
}

func (a *activeFault) error(r Request) error {
	err := a.Err
	if err == nil {
		err = ErrInjected
	}
	return fmt.Errorf("%v of %d bytes at %d: %w", r.Kind, r.N, r.Off, err)
}

// do passes a request on, or spoils it. perform does it; short does the first n
// bytes of it, and is nil where that makes no sense.
func (f *Faulty) do(r Request, perform func() error, short func(n int64) error) error {
	a, err := f.enter(r)
	switch {
	case err != nil:
		return err
	case a == nil:
		return perform()
	case a.After:
		if err := perform(); err != nil {
			return err
		}
	case a.Partial > 0 && short != nil:
		if err := short(min(a.Partial, r.N) &^ (SectorSize - 1)); err != nil {
			return err
		}
	}
	return a.error(r)
}

// ReadAt implements Device.
func (f *Faulty) ReadAt(p []byte, off int64) (n int, err error) {
	r := Request{Kind: OpRead, Off: off, N: int64(len(p))}
	err = f.do(r, func() error {
		n, err = f.readThrough(p, off)
		return err
	}, nil)
	return n, err
}

// WriteAt implements Device.
func (f *Faulty) WriteAt(p []byte, off int64) (int, error) { return f.write(p, off, false) }

// WriteAtFUA implements FUAWriter. If the wrapped device has no FUA it is flushed.
func (f *Faulty) WriteAtFUA(p []byte, off int64) (int, error) { return f.write(p, off, true) }

func (f *Faulty) write(p []byte, off int64, fua bool) (n int, err error) {
	r := Request{Kind: OpWrite, Off: off, N: int64(len(p)), FUA: fua}
	err = f.do(r, func() error {
		n, err = f.writeThrough(p, off, fua)
		return err
	}, func(k int64) error {
		n, err = f.writeThrough(p[:k], off, false)
		return err
	})
	return n, err
}

// Discard implements Discarder.
func (f *Faulty) Discard(off, n int64) error {
	return f.do(Request{Kind: OpDiscard, Off: off, N: n}, func() error {
		if !LimitsOf(f.dev).DiscardSupported {
			return ErrNotSupported
		}
		return f.rangeThrough(off, n, func() error { return Discard(f.dev, off, n) })
	}, nil)
}

// WriteZeroes implements ZeroWriter.
func (f *Faulty) WriteZeroes(off, n int64, mayUnmap bool) error {
	return f.do(Request{Kind: OpZero, Off: off, N: n}, func() error {
		return f.rangeThrough(off, n, func() error { return WriteZeroes(f.dev, off, n, mayUnmap) })
	}, nil)
}

// Flush implements Device.
func (f *Faulty) Flush() error {
	return f.do(Request{Kind: OpFlush}, f.flushThrough, nil)
}

// Limits implements Limiter.
func (f *Faulty) Limits() Limits { return LimitsOf(f.dev) }

// Size implements Device.
func (f *Faulty) Size() int64 { return f.dev.Size() }

// Close implements Device: it closes the wrapped device, without writing to it what
// a volatile cache holds.
func (f *Faulty) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	return f.dev.Close()
}

// Unwrap returns the wrapped device. With a volatile cache it lacks what was not
// flushed.
func (f *Faulty) Unwrap() Device { return f.dev }

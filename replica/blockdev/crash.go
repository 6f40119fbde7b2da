// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"io"
	"math/rand/v2"
)

// volatileCache holds, in order, the changes that no flush has covered. The wrapped
// device has only what is durable.
//
//	WriteAt -> log: [w1][w2][d3][w4*]...      * FUA: durable although in the log
//	Flush   -> all of it in order to the device, then the device's own Flush
//	Crash   -> each sector of each change, in order, by a coin; then the log is gone
//
// A sector that several changes of the log touch ends as any of their versions or
// the old one, which is what disks may do.
type volatileCache struct {
	log []change
}

// change is a write, or a range of zeroes (data nil).
type change struct {
	off, n  int64
	data    []byte
	durable bool
}

// VolatileCache turns the emulation of a disk's volatile write cache on. From then
// on writes, zeroes and discards reach the wrapped device only by a Flush (a
// discarded range reads as zeroes meanwhile). Turning it off is a Flush.
func (f *Faulty) VolatileCache(on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if on {
		if f.cache == nil {
			f.cache = &volatileCache{}
		}
		return nil
	}
	if f.cache == nil {
		return nil
	}
	err := f.cache.drain(f.dev)
	f.cache = nil
	return err
}

// Crash cuts the power. Every change since the last flush is kept, dropped or
// torn at 512-byte sectors, as the seed decides; the same history and seed give the
// same contents. From then on every request, also those that hang, fails with
// ErrPowerLost until Restart. Without VolatileCache everything written is kept.
func (f *Faulty) Crash(seed uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	f.wake.Broadcast()
	if f.cache == nil {
		return nil
	}
	return f.cache.crash(f.dev, rand.New(rand.NewPCG(seed, 0)))
}

// Restart turns the power on again after Crash. Faults stay in force.
func (f *Faulty) Restart() {
	f.mu.Lock()
	f.dead = false
	f.mu.Unlock()
}

// Unflushed returns how many changes a Crash could lose now.
func (f *Faulty) Unflushed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	if f.cache != nil {
		for _, c := range f.cache.log {
			if !c.durable {
				n++
			}
		}
	}
	return n
}

// locked runs fn on the cache if there is one and the power is on. It returns
// false if there is none, for the caller to go to the device, without the lock.
func (f *Faulty) locked(fn func(c *volatileCache) error) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return true, ErrPowerLost
	}
	if f.cache == nil {
		return false, nil
	}
	return true, fn(f.cache)
}

func (f *Faulty) readThrough(p []byte, off int64) (n int, err error) {
	cached, err := f.locked(func(c *volatileCache) error {
		n, err = f.dev.ReadAt(p, off)
		if err == nil {
			c.overlay(p, off)
		}
		return err
	})
	if cached {
		return n, err
	}
	return f.dev.ReadAt(p, off)
}

func (f *Faulty) writeThrough(p []byte, off int64, fua bool) (int, error) {
	cached, err := f.locked(func(c *volatileCache) error {
		if err := check("write", off, int64(len(p)), f.dev.Size()); err != nil {
			return err
		}
		c.log = append(c.log, change{off: off, n: int64(len(p)), data: append([]byte{}, p...), durable: fua})
		return nil
	})
	switch {
	case cached && err != nil:
		return 0, err
	case cached:
		return len(p), nil
	case fua:
		if d, ok := f.dev.(FUAWriter); ok {
			return d.WriteAtFUA(p, off)
		}
		n, err := f.dev.WriteAt(p, off)
		if err == nil {
			err = f.dev.Flush()
		}
		return n, err
	}
	return f.dev.WriteAt(p, off)
}

// rangeThrough zeroes or discards: perform does it if there is no cache.
func (f *Faulty) rangeThrough(off, n int64, perform func() error) error {
	cached, err := f.locked(func(c *volatileCache) error {
		if err := check("zero", off, n, f.dev.Size()); err != nil {
			return err
		}
		c.log = append(c.log, change{off: off, n: n})
		return nil
	})
	if cached {
		return err
	}
	return perform()
}

func (f *Faulty) flushThrough() error {
	cached, err := f.locked(func(c *volatileCache) error { return c.drain(f.dev) })
	if cached {
		return err
	}
	return f.dev.Flush()
}

// overlay brings p, read from the device at off, up to date.
func (c *volatileCache) overlay(p []byte, off int64) {
	for _, ch := range c.log {
		lo, hi := max(off, ch.off), min(off+int64(len(p)), ch.off+ch.n)
		if lo >= hi {
			continue
		}
		if ch.data == nil {
			clear(p[lo-off : hi-off])
		} else {
			copy(p[lo-off:hi-off], ch.data[lo-ch.off:hi-ch.off])
		}
	}
}

// drain makes the log durable. What fails to be written stays in it.
func (c *volatileCache) drain(dev Device) error {
	for _, ch := range c.log {
		if err := ch.apply(dev, 0, ch.n); err != nil {
			return err
		}
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	c.log = nil
	return nil
}

// crash decides about every sector of the log.
func (c *volatileCache) crash(dev Device, rng *rand.Rand) error {
	for _, ch := range c.log {
		fate := rng.IntN(3)
		switch {
		case ch.durable || fate == 0:
			if err := ch.apply(dev, 0, ch.n); err != nil {
				return err
			}
		case fate == 1: // lost
		default: // torn
			for at := int64(0); at < ch.n; at += SectorSize {
				if rng.IntN(2) == 0 {
					continue
				}
				if err := ch.apply(dev, at, SectorSize); err != nil {
					return err
				}
			}
		}
	}
	c.log = nil
	return nil
}

// apply writes n bytes of the change, from its byte at, to w.
func (ch *change) apply(w io.WriterAt, at, n int64) error {
	if ch.data == nil {
		return writeZeroes(w, ch.off+at, n)
	}
	_, err := w.WriteAt(ch.data[at:at+n], ch.off+at)
	return err
}

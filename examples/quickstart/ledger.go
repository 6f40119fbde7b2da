// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
)

// blockSize is the unit in which out-of-sync data is counted: what one bit of the
// bitmap stands for.
const blockSize = 4096

// ledger is the parent's memory of what the volume must contain. Every write gets a
// new version number, from which its data follows.
type ledger struct {
	mu      sync.Mutex
	version uint64
	blocks  map[int64]*entry // by offset
}

// entry is what is known of a block: the version that was acknowledged last, and the
// one of the write that was begun last. They differ while that write is under way,
// and for ever if nobody answered it: then the block may hold either.
type entry struct{ acked, begun uint64 }

func newLedger() *ledger { return &ledger{blocks: map[int64]*entry{}} }

// content returns the data of a version of a block: noise that no other block and
// no other version has. Version 0 is what a fresh disk holds.
func content(offset int64, version uint64) []byte {
	data := make([]byte, blockSize)
	if version == 0 {
		return data
	}
	noise := rand.NewPCG(uint64(offset), version)
	for i := 0; i < len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], noise.Uint64())
	}
	return data
}

// begin notes that a block is about to be written.
func (l *ledger) begin(offset int64) Block {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.blocks[offset]
	if e == nil {
		e = &entry{}
		l.blocks[offset] = e
	}
	l.version++
	e.begun = l.version
	return Block{offset, content(offset, e.begun)}
}

// acknowledged notes that the write of a block was acknowledged.
func (l *ledger) acknowledged(offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.blocks[offset]
	e.acked = e.begun
}

// now returns a point in time for since.
func (l *ledger) now() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version
}

// since counts the blocks that were written, and acknowledged, since then.
func (l *ledger) since(then uint64) (blocks int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.blocks {
		if e.acked > then {
			blocks++
		}
	}
	return blocks
}

// unanswered counts the blocks whose last write was not acknowledged.
func (l *ledger) unanswered() (blocks int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.blocks {
		if e.acked != e.begun {
			blocks++
		}
	}
	return blocks
}

// readSpan is how much verify reads at a time, at most.
const readSpan = 1 << 20

// verify reads every block that was ever written and compares. It returns how many
// there are and how many hold something that they must not. From then on a block
// whose last write nobody answered is what it was found to be.
func (l *ledger) verify(from io.ReaderAt) (blocks, wrong int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	offsets := slices.Sorted(maps.Keys(l.blocks))
	for len(offsets) > 0 {
		first, n := offsets[0], 1
		for n < len(offsets) && offsets[n]+blockSize-first <= readSpan {
			n++
		}
		data := make([]byte, offsets[n-1]+blockSize-first)
		if _, err := from.ReadAt(data, first); err != nil {
			return blocks, wrong, err
		}
		for _, offset := range offsets[:n] {
			blocks++
			if !l.blocks[offset].holds(offset, data[offset-first:][:blockSize]) {
				wrong++
			}
		}
		offsets = offsets[n:]
	}
	return blocks, wrong, nil
}

// holds reports whether the block may contain this, and remembers what it is.
func (e *entry) holds(offset int64, data []byte) bool {
	switch {
	case bytes.Equal(data, content(offset, e.acked)):
		e.begun = e.acked
	case bytes.Equal(data, content(offset, e.begun)):
		e.acked = e.begun
	default:
		return false
	}
	return true
}

// area is a part of the volume that is written to.
type area struct{ offset, size int64 }

// writers is how many writes are under way at a time.
const writers = 16

// load is a number of writers at work: each writes blocks of an area at random, one
// after the other, none that another writer writes, until one write fails or stop
// is called.
type load struct {
	acked   atomic.Int64
	tick    chan struct{} // one is put in after each acknowledgement, if there is room
	ending  atomic.Bool   // stop was called
	running sync.WaitGroup
	once    sync.Once
	err     error // of the first write that failed
	failed  chan struct{}
}

// start begins to write to a node.
func (l *ledger) start(ctx context.Context, n *process, where area) *load {
	w := &load{tick: make(chan struct{}, 1), failed: make(chan struct{})}
	for i := range int64(writers) {
		w.running.Go(func() {
			for !w.ending.Load() {
				block := rand.Int64N(where.size/blockSize/writers)*writers + i
				if err := l.write(ctx, n, where.offset+block*blockSize); err != nil {
					w.once.Do(func() { w.err = err; close(w.failed) })
					return
				}
				w.acked.Add(1)
				select {
				case w.tick <- struct{}{}:
				default:
				}
			}
		})
	}
	return w
}

// write writes one block.
func (l *ledger) write(ctx context.Context, n *process, offset int64) error {
	if err := n.call(ctx, "Write", l.begin(offset), &struct{}{}); err != nil {
		return err
	}
	l.acknowledged(offset)
	return nil
}

// wait waits for a number of further acknowledgements.
func (w *load) wait(count int64) error {
	for goal := w.acked.Load() + count; w.acked.Load() < goal; {
		select {
		case <-w.tick:
		case <-w.failed:
			return fmt.Errorf("after %d writes: %w", w.acked.Load(), w.err)
		}
	}
	return nil
}

// stop waits for the writes that are under way, and returns the error of the first
// one that failed.
func (w *load) stop() error {
	w.ending.Store(true)
	w.running.Wait()
	return w.err
}

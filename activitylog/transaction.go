// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package activitylog

// A Transaction is one block to be written to the ring.
type Transaction struct {
	Number     uint32 // transaction counter, wraps
	BlockIndex uint32 // where it goes: BlockIndex*BlockSize bytes from the area's start
	NUpdates   int    // changes in it, 0 to MaxUpdates
}

// Offset returns the transaction's place in the area in bytes.
func (t Transaction) Offset() int64 { return int64(t.BlockIndex) * BlockSize }

// Prepare makes the next transaction out of the oldest pending changes, up to
// MaxUpdates, and encodes it into block. It appends the extents that it evicts to
// evicted. It returns false, and does nothing, if no change is pending or a
// transaction is in flight.
//
// Then, in this order (spec: on-disk 5.4, 10.3): write the changed bitmap pages
// that cover the evicted extents and wait for them; write the block with a flush
// before it and durably; call Commit; let the writes go that are Granted. If either
// write fails, call Abort.
func (l *Log) Prepare(block *[BlockSize]byte, evicted []Extent) (t Transaction, evictedOut []Extent, ok bool) {
	if l.prepared || l.queue.n == 0 {
		return Transaction{}, evicted, false
	}
	b := l.newBlock()
	n := 0
	for ; n < MaxUpdates && l.queue.n > 0; n++ {
		i := l.queue.head
		l.remove(&l.queue, i)
		l.pushBack(&l.flight, i)
		s := &l.slots[i]
		s.state = inFlight
		b.UpdateSlot[n], b.UpdateExtent[n] = uint16(i), s.pending
		if s.committed != Free {
			evicted = append(evicted, s.committed)
		}
	}
	b.NUpdates = uint16(n)
	return l.launch(&b, block), evicted, true
}

// PrepareContext makes a transaction without changes, of which as many as the ring
// has blocks are written when a volume attaches for the first time or its size
// changes (spec: on-disk 10.2). It returns false, and does nothing, if a transaction
// is in flight. It is completed by Commit or Abort like any other.
func (l *Log) PrepareContext(block *[BlockSize]byte) (t Transaction, ok bool) {
	if l.prepared {
		return Transaction{}, false
	}
	b := l.newBlock()
	return l.launch(&b, block), true
}

// newBlock returns a transaction without changes: the context is the state before
// whatever changes are put into it (spec: on-disk 5.4).
func (l *Log) newBlock() Block {
	b := Block{
		Number:       l.next,
		Type:         TypeUpdate,
		ContextSize:  uint16(len(l.slots)),
		ContextStart: uint16(l.cycle),
	}
	for i := range b.UpdateSlot {
		b.UpdateSlot[i], b.UpdateExtent[i] = freeSlot, Free
	}
	for i := range b.Context {
		b.Context[i] = Free
		if s := l.cycle + i; s < len(l.slots) {
			b.Context[i] = l.slots[s].committed
		}
	}
	return b
}

func (l *Log) launch(b *Block, block *[BlockSize]byte) Transaction {
	b.Encode(block)
	l.prepared = true
	l.current = Transaction{
		Number:     b.Number,
		BlockIndex: l.g.Position(b.Number),
		NUpdates:   int(b.NUpdates),
	}
	return l.current
}

// Commit says that the prepared transaction is durable: its changes take effect,
// what it evicts is cold and what it brings in is hot. It panics if no transaction
// is in flight.
func (l *Log) Commit() {
	l.mustBePrepared("Commit")
	l.prepared = false
	l.next = l.g.Next(l.next)
	if l.cycle += ContextSlots; l.cycle >= len(l.slots) {
		l.cycle = 0
	}
	if l.flight.n > 0 {
		l.starving = false
	}
	for l.flight.n > 0 {
		i := l.flight.head
		l.remove(&l.flight, i)
		s := &l.slots[i]
		e := s.pending
		l.setPending(i, Free)
		l.setCommitted(i, e)
		s.state = stable
		if s.refs == 0 {
			l.pushFront(&l.idle, i)
		}
	}
}

// Abort says that the prepared transaction could not be written. Its changes are
// pending again, ahead of all others, and the next Prepare writes the same number to
// the same place. As the disk may hold the block all the same, what it was to evict
// is not hot for certain any more: it stays IsHot, but TryHold treats it as cold. It
// panics if no transaction is in flight.
func (l *Log) Abort() {
	l.mustBePrepared("Abort")
	l.prepared = false
	for l.flight.n > 0 {
		i := l.flight.tail
		l.remove(&l.flight, i)
		l.pushFront(&l.queue, i)
		l.slots[i].state = retry
	}
}

func (l *Log) mustBePrepared(op string) {
	if !l.prepared {
		panic("activitylog: " + op + " without a prepared transaction")
	}
}

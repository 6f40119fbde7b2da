// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"errors"
	"fmt"
)

// OpKind is what an Op does.
type OpKind uint8

// The kinds of Op.
const (
	OpRead    OpKind = iota + 1 // fill Buf from Off
	OpWrite                     // write Buf at Off
	OpFlush                     // make durable what was written; Off, N and Buf are not used
	OpDiscard                   // deallocate N bytes from Off
	OpZero                      // write zeroes to N bytes from Off
)

// String returns the kind's name: "read", "write", "flush", "discard", "zero".
func (k OpKind) String() string {
	switch k {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpFlush:
		return "flush"
	case OpDiscard:
		return "discard"
	case OpZero:
		return "zero"
	}
	return fmt.Sprintf("OpKind(%d)", uint8(k))
}

// Op is one request to a Queue. The caller fills the fields and owns the Op again
// when Done is called; in between neither the Op nor Buf may be touched. An Op can
// be used again and again, so a steady stream of requests allocates nothing.
type Op struct {
	Kind OpKind
	Off  int64  // bytes, a multiple of SectorSize
	N    int64  // bytes, for OpDiscard and OpZero; a multiple of SectorSize
	Buf  []byte // for OpRead and OpWrite; any memory alignment, length a multiple of SectorSize

	PreFlush bool // flush the device before doing it; see Queue
	FUA      bool // OpWrite, OpDiscard, OpZero: Done is called when this request itself is durable
	MayUnmap bool // OpZero: the range may be deallocated
	// ZeroEdges: OpDiscard: what is not a whole unit of Limits.DiscardGranularity, which a
	// device may leave as it is, is zeroed.
	ZeroEdges bool

	// Err is the result, set before Done is called.
	Err error
	// Done is called exactly once when the request has ended, on a goroutine of
	// the queue, or on the submitter's before Submit returns. It may submit further
	// requests and reuse op, and must neither block for long nor wait for another
	// request of the same queue, nor close the queue. nil is allowed.
	Done func(op *Op)

	// Data is the submitter's, the queue does not look at it.
	Data any

	next  *Op
	stage opStage
}

// opStage is how far an Op with several steps has come.
type opStage uint8

const (
	stageStart opStage = iota // nothing done; a PreFlush is still to come
	stageMain                 // the PreFlush is done
	stageFUA                  // the write is done and waits for the flush that makes it durable
)

// Queue performs Ops on one device, some of them at the same time.
//
// Ops have no order among themselves, not even those of one submitter: a caller
// that needs one op after another waits for the first one's Done. There is one
// guarantee: a flush, and the flush of an op with PreFlush, covers every write
// that had completed (its Done was called) before the op was submitted. It may or
// may not cover writes that were under way. A PreFlush does not hold back other ops.
//
// A queue may combine the flushes of several ops into one.
//
// The number of ops in a queue is not limited; its submitters limit it. The number
// that the device works on at one time is.
//
// All methods are safe for concurrent use.
type Queue interface {
	// Submit starts op and returns without waiting for it. After Close, Done is
	// called at once with ErrClosed.
	Submit(op *Op)
	// SubmitBatch is Submit for several ops, with one wake-up for all.
	SubmitBatch(ops []*Op)
	// Do performs op on the caller's goroutine and returns when it has ended and
	// its Done, if any, was called. For a lone request it saves two changes of
	// goroutine.
	Do(op *Op)
	// Abandon gives the device up: no op reaches it any more but those that have. The
	// others end with ErrAbandoned, those that come later at once, those that wait for
	// their turn when it comes. It does not wait, and calls nothing.
	Abandon()
	// Close waits until every op that was submitted has ended, and for all Do
	// calls, then stops the queue's goroutines. It does not close the device. It
	// must not be called from Done.
	Close() error
}

// NewQueue returns the best queue for dev on this system: NewRing for a File that
// does direct I/O to a disk, on a Linux that has io_uring; everywhere else
// NewPoolQueue with at most workers goroutines (at least 1). A queue keeps its
// goroutines until Close. Close it before the device.
func NewQueue(dev Device, workers int) Queue {
	if f, ok := dev.(*File); ok && f.prefersRing() {
		if q, err := NewRing(f, 0); err == nil {
			return q
		}
	}
	return NewPoolQueue(dev, workers)
}

// performer does single ops on a device, with its optional abilities looked up once.
type performer struct {
	dev Device
	fua FUAWriter // nil if the device has none
}

func newPerformer(dev Device) performer {
	fua, _ := dev.(FUAWriter)
	return performer{dev: dev, fua: fua}
}

// all performs op with all its flushes.
func (p performer) all(op *Op) error {
	if op.PreFlush || op.Kind == OpFlush {
		if err := p.dev.Flush(); err != nil || op.Kind == OpFlush {
			return err
		}
	}
	more, err := p.main(op)
	if err == nil && more {
		err = p.dev.Flush()
	}
	return err
}

// main performs op without its PreFlush. flush tells that only a flush makes it
// as durable as FUA asks.
func (p performer) main(op *Op) (flush bool, err error) {
	switch op.Kind {
	case OpRead:
		_, err = p.dev.ReadAt(op.Buf, op.Off)
		return false, err
	case OpWrite:
		if op.FUA && p.fua != nil {
			_, err = p.fua.WriteAtFUA(op.Buf, op.Off)
			return false, err
		}
		_, err = p.dev.WriteAt(op.Buf, op.Off)
	case OpDiscard:
		if op.ZeroEdges {
			err = discardUnits(p.dev, op.Off, op.N)
		} else {
			err = Discard(p.dev, op.Off, op.N)
		}
	case OpZero:
		err = WriteZeroes(p.dev, op.Off, op.N, op.MayUnmap)
	default:
		return false, fmt.Errorf("blockdev: %v: %w", op.Kind, errors.ErrUnsupported)
	}
	return op.FUA, err
}

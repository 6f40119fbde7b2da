// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"encoding/binary"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// OpKind says what a disk operation does.
type OpKind uint8

// The disk operations that the core asks for.
const (
	OpRead    OpKind = iota // fill Buf from Off
	OpWrite                 // write Buf at Off
	OpFlush                 // make every write that completed before durable
	OpDiscard               // deallocate Len bytes at Off
	OpZero                  // make Len bytes at Off read as zeroes
)

// Op is one disk operation: an effect the shell performs without holding the
// lock, and then hands back with Core.OpDone. Buf stays valid until then.
//
// Operations are independent of each other: where the core needs an order it
// waits for OpDone before it asks for the next one. PreFlush means that all
// writes to the same device that completed before the Op was issued are
// durable before it starts; FUA means the written data is durable when it is done.
type Op struct {
	Kind     OpKind
	Volume   int   // index into Config.Volumes
	Meta     bool  // on the metadata device (for internal metadata the same disk)
	Off, Len int64 // bytes; Len equals len(Buf) for reads and writes
	Buf      []byte
	PreFlush bool
	FUA      bool
	MayUnmap bool // OpZero may deallocate
	// ZeroEdges: of an OpDiscard, what is not a whole unit of the disk's is to be zeroed.
	ZeroEdges bool
	// Digest is what the shell sums a read with, and ZeroCheck whether it looks if
	// all of it is zero: see Sum.
	Digest    protocol.Digest
	ZeroCheck bool
	IO        *IO // the application request it serves, if any: the shell may run it on that caller's goroutine
	Err       error
	// Limited: it may be abandoned (Effects.Abandoned). The shell must not run it on a
	// goroutine that anybody waits for.
	Limited bool
	// User is the shell's own.
	User any

	done  func(*Core, *Op) // continuation; a package function, so that no closure is built on the hot path
	fn    func(error)      // continuation of cold paths
	req   *request
	peer  *peerReq
	epoch *rxEpoch
	from  *peer
	vol   *volume
	since time.Duration
	next  *Op

	before, after *Op     // in volume.ops
	users         []byte  // the application's memory, of which Buf is a copy; nil if it is not
	keep          *Buffer // what an abandoned operation still uses
	abandoned     bool

	summed  bool
	allZero bool
	sum     []byte
	sumRoom [protocol.MaxDigestBytes]byte
}

// Sum computes what the core wants to know of the data that was read. The shell calls
// it after a read, without the lock: it may take milliseconds.
func (o *Op) Sum() {
	if o.summed || o.Kind != OpRead || o.Err != nil || o.Digest.Size() == 0 && !o.ZeroCheck {
		return
	}
	o.summed = true
	o.sum = o.Digest.Sum(o.sumRoom[:0], o.Buf)
	o.allZero = o.ZeroCheck && isZero(o.Buf)
}

// isZero reports whether b holds zeroes only.
func isZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// Buffer is payload memory that travels between the shell and the core. Whoever
// holds it last calls Release.
type Buffer struct {
	Data []byte
	Free func(*Buffer) // returns it to where it came from; called under the core's lock
	// Forget is called, under the lock, when a device that does not answer has the memory:
	// it must not count against any bound any more. Free is still to come. nil is allowed.
	Forget func(*Buffer)
}

// Release returns the buffer to its owner.
func (b *Buffer) Release() {
	if b != nil && b.Free != nil {
		b.Free(b)
	}
}

// forget tells the owner that the memory will not come back soon, if ever.
func (b *Buffer) forget() {
	if b.Forget != nil {
		b.Forget(b)
	}
}

// Allocator hands out buffers for data that the core reads on behalf of the
// peer. Get is called under the core's lock, must not block, and returns nil
// when the bound is reached; the core then waits for a Release.
type Allocator interface {
	Get(n int) *Buffer
}

// IOKind says what an application request does.
type IOKind uint8

// The application's requests.
const (
	IORead IOKind = iota
	IOWrite
	IOFlush
	IODiscard
	IOZero
)

// IO is one application request. The shell fills the exported fields, hands it
// to Core.Submit and gets it back, once, in Effects.Done with Err set. Buf must
// not be touched between the two.
type IO struct {
	Kind     IOKind
	Volume   int
	Off, Len int64 // bytes, multiples of 512; Len at most MaxIOBytes for reads and writes, MaxDiscardBytes for discard and zero
	Buf      []byte
	FUA      bool // of IOWrite: durable on the local disk before completion
	MayUnmap bool // IOZero may deallocate
	Err      error

	// User is the shell's own: its waiter.
	User any

	req  *request
	left int // requests that it was split into and that have not completed
	next *IO
}

// Limits of one application request; the shell splits larger ones.
const (
	MaxIOBytes      = 1 << 20
	MaxDiscardBytes = 4 << 20
)

// NetKind says what the shell is to do with a connection.
type NetKind uint8

// The network actions.
const (
	// NetConnect: form a pair with the peer (transport.Transport.Connect), then
	// call Core.Connected with this Gen. Try until it succeeds or NetClose comes.
	NetConnect NetKind = iota
	// NetReadMeta: the protocol version is agreed; begin to read the meta stream.
	NetReadMeta
	// NetClose: stop connecting, or close the pair. With Graceful the shell first
	// sends what is queued, closes for writing, and goes on reading and
	// discarding for a bounded time, so that the peer reads our last packets.
	// When every goroutine of the pair has ended and every Out was returned, it
	// calls Core.Closed with this Gen.
	NetClose
)

// NetAction is one network effect.
type NetAction struct {
	Kind     NetKind
	Peer     int // index into Config.Peers
	Gen      uint64
	Graceful bool
	// Refused goes with Graceful: the peer is to come to a verdict of its own. The
	// end of the meta stream must not overtake what it still has to read on the data
	// stream, so the meta stream ends when the peer has ended the data stream, or
	// after some seconds.
	Refused bool
}

// Command is an administrator's request in progress. The shell gets it back,
// once, in Effects.Commands with Err set.
type Command struct {
	Err error
	// Verified is what Core.Verify has found.
	Verified *VerifyReport
	// User is the shell's own: its waiter.
	User any

	finished bool
	internal bool // a step of another command: the shell does not get it
}

// LogLevel is the severity of a LogRecord.
type LogLevel int8

// The severities, ordered as in log/slog.
const (
	LogDebug LogLevel = -4
	LogInfo  LogLevel = 0
	LogWarn  LogLevel = 4
	LogError LogLevel = 8
)

// LogRecord is one line for the log.
type LogRecord struct {
	Level  LogLevel
	Volume int // -1 if it concerns the whole resource
	Text   string
}

// EventKind says what an Event reports.
type EventKind uint8

// The events that the core publishes, in the order in which things happened.
const (
	EventState      EventKind = iota // a volume's state changed: Old, New
	EventResyncDone                  // a resync ended; Blocks were out of sync at its start, Failed failed
	EventVerdict                     // a sync handshake was decided: Verdict and Text
	EventSplitBrain                  // split brain, unresolved: both nodes go StandAlone
	EventIOError                     // a disk failed: Text
	EventSize                        // the volume's size changed: Bytes
	EventResyncStart
	EventHandler     // a handler of DRBD would run: Text is its name
	EventRefused     // this node refused the connection and goes StandAlone: Err
	EventQuorum      // the arbiter is asked, or has answered: Text, and Err if it did not say yes
	EventVerifyStart // an online verify of Blocks began
	EventOutOfSync   // it found Bytes at Off that differ
	EventVerifyDone  // it ended: of Blocks Failed differ; Err says why it was interrupted, if it was
)

// Event is one entry of the ordered event stream.
type Event struct {
	Kind     EventKind
	Volume   int // index, -1 if it concerns the connection
	Peer     int
	Old, New protocol.State
	Text     string
	Err      error
	Decision *metadata.Decision
	Blocks   uint64
	Failed   uint64
	Bytes    int64
	Call     *Call // EventHandler, EventQuorum: to be run, and HandlerDone called
	Off      int64
}

// Effects is what one or more events led to. The shell performs all of it
// outside its lock. Ops are independent; Net actions are performed in order.
type Effects struct {
	Ops []*Op
	// Abandoned are operations that the core does not wait for any more. Those that have
	// not reached the device must not do so: their volume's disk is out of service. All of
	// them, and their memory, belong to the shell until it hands them back with OpDone.
	Abandoned []*Op

	Done     []*IO
	Net      []NetAction
	Commands []*Command
	Events   []Event
	Logs     []LogRecord
}

// Reset empties e and keeps its memory.
func (e *Effects) Reset() {
	clear(e.Ops)
	clear(e.Abandoned)
	clear(e.Done)
	clear(e.Commands)
	e.Ops, e.Abandoned, e.Done, e.Net = e.Ops[:0], e.Abandoned[:0], e.Done[:0], e.Net[:0]
	e.Commands, e.Events, e.Logs = e.Commands[:0], e.Events[:0], e.Logs[:0]
}

// Empty reports whether there is nothing to perform.
func (e *Effects) Empty() bool {
	return len(e.Ops)+len(e.Abandoned)+len(e.Done)+len(e.Net)+len(e.Commands)+len(e.Events)+len(e.Logs) == 0
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package core is the brain of package replica: a deterministic state machine
// for one resource that does no I/O, reads no clock, starts no goroutine and
// takes no lock.
//
//	   events                                             effects
//	application I/O  ─ Submit ──┐                    ┌──  Ops       disk operations
//	disk completion  ─ OpDone ──┤   ┌────────────┐   ├──  Out       packets per stream
//	packet           ─ Receive ─┼──►│    Core    │───┼──  Done      completed application I/O
//	connection       ─ Connected┤   └────────────┘   ├──  Net       connect, close
//	                   Lost     │                    ├──  Commands  finished commands
//	                   Closed   │                    ├──  Events    what happened, in order
//	clock            ─ Tick ────┤                    └──  Deadline  when to call Tick
//	administrator    ─ Promote… ┘
//
// The caller (the shell) holds one lock around every call, first tells the time
// with Advance, then delivers one or more events, then takes the effects with
// Take and TakeOut and performs them after it has released the lock. The same
// events at the same times give the same effects, always.
package core

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/go-blockmirror/blockmirror/transport/transporttest"
)

// standIn plays a node of a scenario that is no replica.Resource: the kernel's DRBD.
type standIn interface {
	// perform is a command of this node; the name of the node is not among the args.
	perform(s *stage, verb string, a *args) error
	disks(size int64, fresh bool) error
	config(name, value string) error
	// content is the data area of its disk.
	content() ([]byte, error)
	mark() error
	// guard is the stage's, for this node.
	guard(allow map[string]bool) error
	gaveUp(times int) bool
	history() string
}

// link is what lies between the two nodes. A direction has the name of the node that sends.
type link interface {
	// cut breaks all connections and allows no others until heal; reset breaks only.
	cut()
	heal()
	reset()
	// stall holds a direction until resume.
	stall(from string)
	resume(from string)
	// bytes is what a node has sent.
	bytes(from string) int64
	setDelay(time.Duration)
	setBandwidth(bytesPerSecond int64)
	Close() error
}

// virtualLink is a network in memory.
type virtualLink struct{ *transporttest.Network }

func (l virtualLink) cut()                    { l.Cut("P", "S") }
func (l virtualLink) heal()                   { l.Heal("P", "S") }
func (l virtualLink) reset()                  { l.Reset("P", "S") }
func (l virtualLink) stall(from string)       { l.Path(from, other(from)).Stall() }
func (l virtualLink) resume(from string)      { l.Path(from, other(from)).Resume() }
func (l virtualLink) bytes(from string) int64 { return l.Path(from, other(from)).Bytes() }

func (l virtualLink) setDelay(d time.Duration) {
	l.Path("P", "S").SetDelay(d)
	l.Path("S", "P").SetDelay(d)
}

func (l virtualLink) setBandwidth(n int64) {
	l.Path("P", "S").SetBandwidth(n)
	l.Path("S", "P").SetBandwidth(n)
}

// ofTheLink are commands that name a node without asking it for anything, and those that
// ask by way of content.
var ofTheLink = []string{"stall", "unstall", "travelled", "forget", "config", "ours"}

// playedByOther returns the node that a command is for, if it is a standIn.
func (s *stage) playedByOther(words []string) *actor {
	if len(words) < 2 || slices.Contains(ofTheLink, words[0]) {
		return nil
	}
	if n := s.nodes[words[1]]; n != nil && n.other != nil {
		return n
	}
	return nil
}

// verbSleep: sleep DURATION [whole]. In real time not that long, but for whole.
func verbSleep(s *stage, a *args) error {
	d := a.duration()
	if whole := a.flag("whole"); s.real && !whole {
		d = min(d, time.Second/2)
	}
	time.Sleep(d)
	return a.err
}

// verbTook: took LEAST MOST. So much time has passed since the mark. Real time, which a busy
// machine spends on other things, is not looked at.
func verbTook(s *stage, a *args) error {
	least, most := a.duration(), a.duration()
	if took := time.Since(s.since); a.err == nil && !s.real && (took < least || took > most) {
		return fmt.Errorf("it took %v", took)
	}
	return a.err
}

// verbOurs: ours NODE COMMAND... The command is left out if this node is a standIn.
func verbOurs(s *stage, a *args) error {
	n, words := s.node(a), a.rest()
	if a.err != nil || n.other != nil {
		return a.err
	}
	return s.do(words)
}

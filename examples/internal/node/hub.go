// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"sync"
)

// hub wakes those who watch the node. What has changed they find out themselves: a
// slow reader misses steps in between, and never what they led to.
type hub struct {
	mu     sync.Mutex
	subs   map[*Watch]struct{}
	closed bool
}

// Watch is one reader of a node's changes.
type Watch struct {
	h       *hub
	wake    chan struct{}
	mu      sync.Mutex
	helpers []HelperCall
}

// HelperCall is a handler that was called, or that has returned.
type HelperCall struct {
	Resource string
	Peer     string
	Volume   int // -1: concerns the resource
	Minor    int
	Helper   string
	Done     bool
	Status   int // exit code, if Done
}

// Watch begins to watch. It must be ended with Close.
func (n *Node) Watch() *Watch {
	w := &Watch{h: &n.hub, wake: make(chan struct{}, 1)}
	n.hub.mu.Lock()
	defer n.hub.mu.Unlock()
	if n.hub.subs == nil {
		n.hub.subs = map[*Watch]struct{}{}
	}
	if n.hub.closed {
		close(w.wake)
	} else {
		n.hub.subs[w] = struct{}{}
	}
	return w
}

// Close ends the watch.
func (w *Watch) Close() {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	delete(w.h.subs, w)
}

// Wait waits for the next change. False means that ctx or the node has ended.
func (w *Watch) Wait(ctx context.Context) bool {
	select {
	case _, ok := <-w.wake:
		return ok
	case <-ctx.Done():
		return false
	}
}

// C is readable when something has changed, and closed when the node is.
func (w *Watch) C() <-chan struct{} { return w.wake }

// Helpers returns the handler calls since the last time, at most 64.
func (w *Watch) Helpers() []HelperCall {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.helpers
	w.helpers = nil
	return out
}

func (h *hub) notify() { h.publish(nil) }

func (h *hub) publish(call *HelperCall) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.subs {
		if call != nil {
			w.mu.Lock()
			if len(w.helpers) < 64 {
				w.helpers = append(w.helpers, *call)
			}
			w.mu.Unlock()
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for w := range h.subs {
		close(w.wake)
	}
	h.subs = nil
}

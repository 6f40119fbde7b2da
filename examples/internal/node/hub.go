// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"sync"
)

// hub wakes those who watch the node, and tells which resources to look at. What has
// changed there they find out themselves: a slow reader misses steps in between, and
// never what they led to.
type hub struct {
	mu     sync.Mutex
	subs   map[*Watch]struct{}
	closed bool
}

// Watch is one reader of a node's changes.
type Watch struct {
	h       *hub
	wake    chan struct{}
	only    string // the resource to be woken for; empty for all
	mu      sync.Mutex
	changed map[string]struct{}
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

// Watch begins to watch all resources. It must be ended with Close.
func (n *Node) Watch() *Watch { return n.WatchResource("") }

// WatchResource begins to watch one resource, or all if name is "". It must be ended
// with Close.
func (n *Node) WatchResource(name string) *Watch {
	w := &Watch{h: &n.hub, wake: make(chan struct{}, 1), only: name, changed: map[string]struct{}{}}
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

// Changed returns the names of the resources that may have changed since the last time,
// in no order.
func (w *Watch) Changed() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]string, 0, len(w.changed))
	for name := range w.changed {
		out = append(out, name)
	}
	clear(w.changed)
	return out
}

// Helpers returns the handler calls since the last time, at most 64.
func (w *Watch) Helpers() []HelperCall {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.helpers
	w.helpers = nil
	return out
}

// notify tells that a resource may have changed.
func (h *hub) notify(resource string) { h.publish(resource, nil) }

func (h *hub) publish(resource string, call *HelperCall) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.subs {
		if w.only != "" && w.only != resource {
			continue
		}
		w.mu.Lock()
		w.changed[resource] = struct{}{}
		if call != nil && len(w.helpers) < 64 {
			w.helpers = append(w.helpers, *call)
		}
		w.mu.Unlock()
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

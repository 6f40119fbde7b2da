// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// An Arbiter decides which of two nodes that have lost each other goes on: quorum for
// two. It stands for a service that both nodes can ask, as etcd, Consul, a database or
// an object store with conditional writes.
//
// It is asked before a Primary whose peer is lost completes or accepts any further
// request, and before a node without its peer is promoted (unless with Force). Each
// question names the generation of the data, which both nodes share when they lose
// each other. What makes exactly one of them go on is one rule:
//
//	the first node that asks about a generation gets it, for ever
//
// So the service needs nothing but a register that can be set once for each
// [Question.Key]: write the own node's name if the key does not exist, else compare.
// Nothing is ever released: whoever goes on begins a new generation, and so does a
// Primary that has asked and meets its peer again. Old keys can be dropped once a
// newer one of the resource exists and both nodes are connected.
type Arbiter interface {
	// Decide reports whether this node may go on without its peer. An error means
	// that nothing is known: a Primary stays frozen and asks again, a promotion fails
	// with ErrNoQuorum. ctx ends after Config.ArbiterTimeout and when the resource is
	// closed. It runs outside of the resource's goroutines, one call at a time.
	Decide(ctx context.Context, q Question) (bool, error)
}

// Question is what an Arbiter is asked.
type Question struct {
	// Resource is Config.Name; with an Arbiter it must be the same on both nodes.
	Resource string
	// Peer is PeerConfig.Name.
	Peer string
	// Generations names the data, per volume in ascending order of ID.
	Generations []Generation
	// Promote: the node is about to be promoted; else it is Primary and goes on.
	Promote bool
}

// Generation is the data of a volume.
type Generation struct {
	Volume  uint16
	Current metadata.UUID // the current identifier without its lowest bit (spec: behaviour 3.1)
}

// Key names the question: two nodes that lost each other ask with the same key. It has
// letters, digits, '.', '-', '/' and what is in the resource's name.
func (q Question) Key() string {
	var b strings.Builder
	b.WriteString(q.Resource)
	for _, g := range q.Generations {
		fmt.Fprintf(&b, "/%d-%016X", g.Volume, uint64(g.Current))
	}
	return b.String()
}

// runArbiter asks the Arbiter, and tells the core.
func (r *Resource) runArbiter(ctx context.Context, call *core.Call) {
	q := Question{Resource: r.name, Peer: r.cfg.Peers[0].Name, Promote: call.Promote}
	for _, g := range call.Generations {
		q.Generations = append(q.Generations, Generation{Volume: g.Volume, Current: g.Current})
	}
	limit := or(r.cfg.ArbiterTimeout, DefaultArbiterTimeout)
	yes, err := bounded(ctx, limit, func(ctx context.Context) (bool, error) { return r.cfg.Arbiter.Decide(ctx, q) })
	code := core.ArbiterDenied
	switch {
	case err != nil:
		r.log.error(fmt.Sprintf("the arbiter gave no answer about %s: %v", q.Key(), err), -1)
		code = core.ArbiterUnreachable
	case yes:
		code = core.ArbiterGranted
	}
	r.callDone(call, code)
}

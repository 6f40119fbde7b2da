// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/drbdconf"
)

// handlerNames are the handlers that can be configured (spec: behaviour 8.3).
var handlerNames = []string{
	"fence-peer", "unfence-peer", "before-resync-target", "before-resync-source", "after-resync-target", "initial-split-brain",
	"split-brain", "pri-lost", "pri-lost-after-sb", "pri-on-incon-degr", "local-io-error", "out-of-sync", "quorum-lost",
}

// HandlerNames returns the handlers that can be configured.
func HandlerNames() []string { return slices.Clone(handlerNames) }

// SetHandlers sets the programs that are run as handlers, by DRBD's names. A program and
// its arguments are separated by blanks; quotes keep blanks together. No shell sees them.
func (r *Resource) SetHandlers(commands map[string]string) error {
	parsed := map[string][]string{}
	for name, line := range commands {
		if err := CheckHandler(name, line); err != nil {
			return err
		}
		parsed[name], _ = drbdconf.SplitCommand(line)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handlers = parsed
	return nil
}

// CheckHandler says what is wrong with a program and its arguments as a handler.
func CheckHandler(name, line string) error {
	if !slices.Contains(handlerNames, name) {
		return usage("%s is no handler, want one of %s", name, strings.Join(handlerNames, ", "))
	}
	if _, err := drbdconf.SplitCommand(line); err != nil {
		return usage("handler %s: %v", name, err)
	}
	return nil
}

// programs runs a resource's handlers and tells the watchers of the node. It is a
// replica.Fencer.
type programs struct {
	r    *Resource
	exec *replica.ExecHandlers
}

// applyHandlers puts the handlers into a configuration. The caller holds r.mu.
func (r *Resource) applyHandlers(cfg *replica.Config) {
	if len(r.handlers) == 0 {
		return
	}
	p := &programs{r, &replica.ExecHandlers{Commands: r.handlers, Disks: map[uint16]string{}, Conf: r.node.cfg.ConfFile}}
	for id, v := range r.volumes {
		if v.last != nil {
			p.exec.Disks[id] = v.last.Disk
		}
	}
	for _, h := range []struct {
		name  string
		plain *func(context.Context, replica.HandlerCall)
		waits *func(context.Context, replica.HandlerCall) error
	}{
		{"before-resync-target", nil, &cfg.Handlers.BeforeResyncTarget},
		{"before-resync-source", nil, &cfg.Handlers.BeforeResyncSource},
		{"local-io-error", &cfg.Handlers.LocalIOError, nil},
		{"after-resync-target", &cfg.Handlers.AfterResyncTarget, nil},
		{"initial-split-brain", &cfg.Handlers.InitialSplitBrain, nil},
		{"split-brain", &cfg.Handlers.SplitBrain, nil},
		{"pri-lost", &cfg.Handlers.PriLost, nil},
		{"pri-lost-after-sb", &cfg.Handlers.PriLostAfterSB, nil},
		{"pri-on-incon-degr", &cfg.Handlers.PriOnInconDegr, nil},
		{"out-of-sync", &cfg.Handlers.OutOfSync, nil},
		{"quorum-lost", &cfg.Handlers.QuorumLost, nil},
	} {
		switch {
		case len(r.handlers[h.name]) == 0:
		case h.waits != nil:
			*h.waits = p.run
		default:
			*h.plain = func(ctx context.Context, call replica.HandlerCall) { _ = p.run(ctx, call) }
		}
	}
	if len(r.handlers["fence-peer"]) > 0 {
		cfg.Fencer = p
	}
}

// run runs one program.
func (p *programs) run(ctx context.Context, call replica.HandlerCall) error {
	p.tell(call, false, nil)
	err := p.exec.Run(ctx, call)
	p.tell(call, true, err)
	return err
}

// FencePeer implements replica.Fencer.
func (p *programs) FencePeer(ctx context.Context, call replica.HandlerCall) (replica.FenceResult, error) {
	p.tell(call, false, nil)
	result, err := p.exec.FencePeer(ctx, call)
	told := err
	if err == nil && result != 0 {
		told = &replica.ExitError{Name: call.Name, Code: int(result)}
	}
	p.tell(call, true, told)
	return result, err
}

// UnfencePeer implements replica.Fencer.
func (p *programs) UnfencePeer(ctx context.Context, call replica.HandlerCall) error {
	if len(p.exec.Commands[call.Name]) == 0 {
		return nil
	}
	return p.run(ctx, call)
}

// tell writes a call to the log, and to events2.
func (p *programs) tell(call replica.HandlerCall, done bool, err error) {
	h := HelperCall{Resource: p.r.name, Peer: call.Peer, Volume: -1, Helper: call.Name, Done: done}
	if !call.WholeResource && len(call.Volumes) > 0 {
		h.Volume, h.Minor = int(call.Volumes[0].ID), call.Volumes[0].Minor
	}
	level, text := slog.LevelInfo, "handler called"
	if done {
		text = "handler returned"
		if err != nil {
			level = slog.LevelWarn
			h.Status = 1
			var exit *replica.ExitError
			if errors.As(err, &exit) {
				h.Status = exit.Code
			}
		}
	}
	p.r.node.log.Log(context.Background(), level, text, "resource", p.r.name, "handler", call.Name, "status", h.Status, "err", err)
	p.r.node.hub.publish(p.r.name, &h)
}

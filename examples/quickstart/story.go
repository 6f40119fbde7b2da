// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"time"
)

// story is one run: what the steps share.
type story struct {
	opts   options
	dir    string
	report *report
	ledger *ledger

	image       image
	volume      int64             // bytes
	link        *link             // between the nodes
	local       map[string]string // where each node listens
	alpha, beta *process
	children    []*process // all that were started
}

func newStory(opts options, dir string, r *report) *story {
	return &story{opts: opts, dir: dir, report: r, ledger: newLedger(), local: map[string]string{}}
}

// errMismatch: something was not as expected; the table says what.
var errMismatch = errors.New("not all is as expected, see the table")

// tell runs the steps until one fails, and prints the table. Whatever happens, no
// process is left when it returns.
func (s *story) tell(ctx context.Context) error {
	defer s.end()
	for _, step := range s.steps() {
		if err := step(ctx); err != nil {
			s.report.failed()
			s.report.table()
			return err
		}
	}
	if !s.report.table() {
		return errMismatch
	}
	return nil
}

// steps returns the chapters in their order.
func (s *story) steps() []func(context.Context) error {
	return []func(context.Context) error{
		s.createDisks, s.fill, s.initialSync, s.cutLink, s.killPrimary, s.rejoin,
		s.switchOver, s.compare, s.askRealTools,
	}
}

// The volume is used in parts: the image first, then an area for each chapter that
// writes, so that one can tell whose blocks a resync has to copy.
const (
	areaWhileCut = iota
	areaWhileKilled
	areaWhileAlone
)

// imageSize is how much of the disk the image may take: three quarters.
func (s *story) imageSize() int64 { return s.opts.size / 4 * 3 / blockSize * blockSize }

// area returns an area behind the image: a sixteenth of the disk.
func (s *story) area(which int64) area {
	size := s.opts.size / 16 / blockSize * blockSize
	return area{offset: s.imageSize() + which*size, size: size}
}

// scaled is a number of writes for a disk of 256 MiB, less for a smaller one.
func (s *story) scaled(writes int64) int64 {
	return max(writes*min(s.opts.size, 256<<20)/(256<<20), 50)
}

// disk returns the path of a node's disk.
func (s *story) disk(name string) string { return filepath.Join(s.dir, name+".disk") }

// start starts the process of a node.
func (s *story) start(ctx context.Context, name string) (*process, error) {
	cfg := nodeConfig{
		name: name, peer: "beta", disk: s.disk(name), local: s.local[name],
		remote: s.link.toBeta.Addr().String(), verbose: s.opts.verbose,
	}
	if name == "beta" {
		cfg.peer, cfg.remote = "alpha", s.link.toAlpha.Addr().String()
	}
	p, err := startNode(ctx, cfg)
	if err == nil {
		s.children = append(s.children, p)
	}
	return p, err
}

// both asks both nodes to do something, one after the other.
func (s *story) both(ctx context.Context, methods ...string) error {
	if err := s.alpha.do(ctx, methods...); err != nil {
		return err
	}
	return s.beta.do(ctx, methods...)
}

// awaitResync waits until a resync has ended on both nodes, shows how far it is, and
// returns how many blocks it had to copy.
func (s *story) awaitResync(ctx context.Context, source, target *process, show bool) (int64, error) {
	var from, to Resync
	ended := make(chan error, 2)
	go func() { ended <- source.call(ctx, "NextResync", struct{}{}, &from) }()
	go func() { ended <- target.call(ctx, "NextResync", struct{}{}, &to) }()
	for left := 2; left > 0; {
		select {
		case err := <-ended:
			if err != nil {
				return 0, err
			}
			left--
			continue
		case <-time.After(50 * time.Millisecond):
		}
		if st, err := target.status(ctx); show && err == nil && st.Running {
			s.report.progress(st)
		}
	}
	if from != to || from.Failed > 0 {
		return 0, fmt.Errorf("the nodes do not agree on the resync: %s has %+v, %s has %+v", source.name, from, target.name, to)
	}
	return int64(from.Blocks), nil
}

// end ends what is still running.
func (s *story) end() {
	for _, p := range s.children {
		p.kill()
	}
	if s.link != nil {
		s.link.close()
	}
}

// freeAddress returns an address on this machine that nobody listens on. The ports
// lie below those that systems give to outgoing connections: while a node is
// connected it does not listen, and its port must not be taken meanwhile.
func freeAddress() (string, error) {
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000))
		if ln, err := net.Listen("tcp", address); err == nil {
			return address, ln.Close()
		}
	}
	return "", errors.New("found no free port on this machine")
}

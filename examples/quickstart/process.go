// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"time"
)

// process is a node as the parent sees it: a child that does what it is asked. It
// is this program, started with other arguments.
type process struct {
	name  string
	cmd   *exec.Cmd
	rpc   *rpc.Client
	ended chan struct{} // closed when the child has ended
	err   error         // how; valid then
}

// startNode starts a node and waits until its resource is open.
func startNode(ctx context.Context, cfg nodeConfig) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{
		nodeCommand, "-name", cfg.name, "-peer", cfg.peer, "-disk", cfg.disk,
		"-local", cfg.local, "-remote", cfg.remote,
	}
	if cfg.verbose {
		args = append(args, "-v")
	}
	p := &process{name: cfg.name, cmd: exec.Command(self, args...), ended: make(chan struct{})}
	p.cmd.Stderr = os.Stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, w := io.Pipe() // a copy, so that Wait may be called before all is read
	p.cmd.Stdout = w
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		_ = w.Close()
		close(p.ended)
	}()
	p.rpc = rpc.NewClient(stdio{stdout, stdin})
	var st Status
	if err := p.call(ctx, "Status", struct{}{}, &st); err != nil {
		p.kill()
		return nil, fmt.Errorf("start %s: %w", cfg.name, err)
	}
	return p, nil
}

// call asks the node to do something and waits for the answer. When ctx ends, or the
// process does, so does the call.
func (p *process) call(ctx context.Context, method string, arg, reply any) error {
	call := p.rpc.Go("Node."+method, arg, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if call.Error != nil {
			return fmt.Errorf("%s: %s: %w", p.name, method, call.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: %w", p.name, method, ctx.Err())
	}
}

// do is call without arguments and results.
func (p *process) do(ctx context.Context, methods ...string) error {
	for _, method := range methods {
		if err := p.call(ctx, method, struct{}{}, &struct{}{}); err != nil {
			return err
		}
	}
	return nil
}

// status asks for the state.
func (p *process) status(ctx context.Context) (st Status, err error) {
	return st, p.call(ctx, "Status", struct{}{}, &st)
}

// waitFor asks for the state until it is as wanted.
func (p *process) waitFor(ctx context.Context, what string, wanted func(Status) bool) error {
	for {
		st, err := p.status(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("wait until %s: %w", what, err)
		case wanted(st):
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// reader returns the node's volume as an io.ReaderAt.
func (p *process) reader(ctx context.Context) io.ReaderAt { return volumeReader{ctx, p} }

type volumeReader struct {
	ctx context.Context
	p   *process
}

// ReadAt implements io.ReaderAt.
func (r volumeReader) ReadAt(b []byte, off int64) (int, error) {
	var data []byte
	err := r.p.call(r.ctx, "Read", Range{off, len(b)}, &data)
	return copy(b, data), err
}

// close ends the node in order, and its process.
func (p *process) close(ctx context.Context) error {
	if err := p.do(ctx, "Close"); err != nil {
		return err
	}
	_ = p.rpc.Close()
	select {
	case <-p.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.err != nil {
		return fmt.Errorf("%s: its process ended with %w", p.name, p.err)
	}
	return nil
}

// kill ends the process at once (SIGKILL), whatever it is doing, and waits for it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.ended
	_ = p.rpc.Close()
}

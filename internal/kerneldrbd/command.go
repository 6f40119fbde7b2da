// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kerneldrbd

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ExitError is what Run returns for a command that failed.
type ExitError struct {
	Command string
	// Status is what the shell says: 128 and more stands for a signal.
	Status int
	Output string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("kerneldrbd: guest: %s: exit status %d: %s", e.Command, e.Status, strings.TrimSpace(e.Output))
}

// maxOutput bounds what a command may print; what is more is an error.
const maxOutput = 64 << 20

// result is what a command did.
type result struct {
	status int
	output []byte
}

// port is a stream to an agent of the guest, which runs one command at a time.
type port struct {
	number  int // as the guest has it
	conn    net.Conn
	results chan result   // closed when the stream has ended
	ended   chan struct{} // closed by the same event, for select

	mu   sync.Mutex
	mark string // the last line of the present command's answer begins with it
}

func newPort(number int, conn net.Conn) *port {
	return &port{number: number, conn: conn, mark: "ready", results: make(chan result, 1), ended: make(chan struct{})}
}

// read receives results until the stream ends.
func (p *port) read() {
	defer close(p.ended)
	r := bufio.NewReaderSize(p.conn, 64<<10)
	var out []byte
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			err = nil
		}
		if err != nil || len(out)+len(line) > maxOutput {
			return
		}
		p.mu.Lock()
		mark := p.mark
		p.mu.Unlock()
		rest, last := strings.CutPrefix(string(line), mark+" ")
		if !last || len(out) == 0 || out[len(out)-1] != '\n' {
			out = append(out, line...)
			continue
		}
		status, err := strconv.Atoi(strings.TrimSpace(rest))
		if err != nil {
			return
		}
		p.results <- result{status, out[:len(out)-1]} // the mark's line begins with a line's end
		out = nil
	}
}

// result waits for the result of the command that runs.
func (p *port) result(ctx context.Context) (result, error) {
	select {
	case r := <-p.results:
		return r, nil
	case <-p.ended:
		return result{}, ErrDown
	case <-ctx.Done():
		return result{}, ctx.Err()
	}
}

// send gives the agent a script to run.
func (p *port) send(script string) error {
	if strings.Contains(script, "\n") { // the agent takes a line
		script = `eval "$(echo ` + base64.StdEncoding.EncodeToString([]byte(script)) + ` | base64 -d)"`
	}
	var mark [12]byte
	_, _ = rand.Read(mark[:]) // never fails
	p.mu.Lock()
	p.mark = hex.EncodeToString(mark[:])
	line := p.mark + " " + script + "\n"
	p.mu.Unlock()
	_, err := io.WriteString(p.conn, line)
	return err
}

// Run runs a shell command in the guest and returns what it printed, standard error
// included. A command that fails gives that and an *ExitError. If ctx ends first, the
// command is killed with its children, and the context's error returned; what it does
// inside the kernel may go on. Four commands can run at one time, others wait.
func (g *Guest) Run(ctx context.Context, command string) (string, error) {
	vm, err := g.machine()
	if err != nil {
		return "", err
	}
	var p *port
	select {
	case p = <-vm.idle:
	case <-vm.exited:
		return "", vm.down(command)
	case <-ctx.Done():
		return "", fmt.Errorf("%w: %s: %w", ErrBusy, command, ctx.Err())
	}
	if err := p.send(command); err != nil {
		return "", vm.down(command)
	}
	r, err := p.result(ctx)
	switch {
	case err == nil:
		vm.idle <- p
	case ctx.Err() != nil:
		vm.readers.Go(func() { vm.recover(p) })
		return "", fmt.Errorf("kerneldrbd: guest: %s: %w", command, ctx.Err())
	default:
		return "", vm.down(command)
	}
	out := string(r.output)
	if r.status != 0 {
		return out, &ExitError{Command: command, Status: r.status, Output: out}
	}
	return out, nil
}

// down describes the end of the guest under a command.
func (vm *machine) down(command string) error {
	console := vm.console.String()
	return fmt.Errorf("%w: %s\n%s", ErrDown, command, console[max(0, len(console)-2000):])
}

// recover kills the command of a port, and makes the port usable when it has ended. A
// command that cannot be killed keeps its port.
func (vm *machine) recover(p *port) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		// One killer at a time; it has no results of others.
		if err := vm.killCommand(ctx, p.number); err != nil {
			return
		}
		select {
		case <-p.results:
			vm.idle <- p
			return
		case <-p.ended:
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Second): // it was not there yet, or hangs in the kernel
		}
	}
}

func (vm *machine) killCommand(ctx context.Context, number int) error {
	vm.killing.Lock()
	defer vm.killing.Unlock()
	const script = "k() { for c in $(pgrep -P $1); do k $c; done; kill -9 $1; }; k $(cat /run/%d.pid)"
	if err := vm.killer.send(fmt.Sprintf(script, number)); err != nil {
		return err
	}
	_, err := vm.killer.result(ctx)
	return err
}

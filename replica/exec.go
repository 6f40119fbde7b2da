// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// ExecHandlers runs programs as handlers, as DRBD does (spec: behaviour 8.3; the section
// "handlers" of drbd.conf(5)). It is a [Fencer], and Handlers makes the callbacks.
//
// A program is started directly, without a shell, with this environment and nothing else:
//
//	HOME=/  TERM=linux  PATH=/sbin:/usr/sbin:/bin:/usr/bin
//	DRBD_RESOURCE      name of the resource
//	DRBD_VOLUME        volume number; all of them, with blanks between, for a handler of the resource
//	DRBD_MINOR         minor number(s) of the same
//	DRBD_LL_DISK       backing device(s) of the same, from Disks; "none" where it has none
//	DRBD_PEER          name of the peer (deprecated), DRBD_PEERS the same
//	DRBD_PEER_AF       "ipv4" or "ipv6", and DRBD_PEER_ADDRESS: its address without the
//	                   port; both are missing as long as there was no connection
//	DRBD_CONF          from Conf, if that is set
//
// followed by Env. When the time is over the program is killed, and what it had to say does
// not count.
type ExecHandlers struct {
	// Commands holds a program and its arguments for each handler, by DRBD's name, as
	// "fence-peer", "split-brain". Those without a program do nothing and succeed.
	Commands map[string][]string
	// Disks names the backing device of each volume.
	Disks map[uint16]string
	// Conf is the value of DRBD_CONF.
	Conf string
	// Env is added to the environment; later entries win.
	Env []string
	// Output receives what the programs write; nil discards it. Programs of
	// different lanes may write at the same time.
	Output io.Writer
}

var _ Fencer = (*ExecHandlers)(nil)

// killWait is how long the output of a killed program is waited for.
const killWait = time.Second

// Handlers returns callbacks that run the programs, for those that have one.
func (e *ExecHandlers) Handlers() Handlers {
	plain := func(name string) func(context.Context, HandlerCall) {
		if len(e.Commands[name]) == 0 {
			return nil
		}
		return func(ctx context.Context, call HandlerCall) { _ = e.Run(ctx, call) }
	}
	strict := func(name string) func(context.Context, HandlerCall) error {
		if len(e.Commands[name]) == 0 {
			return nil
		}
		return e.Run
	}
	return Handlers{
		BeforeResyncTarget: strict(core.HandlerBeforeResyncTarget),
		BeforeResyncSource: strict(core.HandlerBeforeResyncSource),
		LocalIOError:       plain(core.HandlerLocalIOError),
		AfterResyncTarget:  plain(core.HandlerAfterResyncTarget),
		InitialSplitBrain:  plain("initial-split-brain"),
		SplitBrain:         plain("split-brain"),
		PriLost:            plain("pri-lost"),
		PriLostAfterSB:     plain("pri-lost-after-sb"),
		PriOnInconDegr:     plain(core.HandlerPriOnInconDegr),
		OutOfSync:          plain(core.HandlerOutOfSync),
		QuorumLost:         plain(core.HandlerQuorumLost),
	}
}

// FencePeer runs the program for "fence-peer"; its exit code is the result. Without
// one the result is 0: nothing is known.
func (e *ExecHandlers) FencePeer(ctx context.Context, call HandlerCall) (FenceResult, error) {
	err := e.Run(ctx, call)
	var exit *ExitError
	if errors.As(err, &exit) && exit.Err == nil {
		return FenceResult(exit.Code), nil
	}
	return 0, err
}

// UnfencePeer runs the program for "unfence-peer".
func (e *ExecHandlers) UnfencePeer(ctx context.Context, call HandlerCall) error {
	return e.Run(ctx, call)
}

// Run runs the program for call.Name. Any end but exit code 0 is an [*ExitError].
func (e *ExecHandlers) Run(ctx context.Context, call HandlerCall) error {
	argv := e.Commands[call.Name]
	if len(argv) == 0 {
		return nil
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = e.Environ(call)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = e.Output, e.Output
	cmd.WaitDelay = killWait
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return &ExitError{Name: call.Name, Code: 1, Err: fmt.Errorf("killed: %w", context.Cause(ctx))}
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return &ExitError{Name: call.Name, Code: exit.ExitCode()}
	}
	return &ExitError{Name: call.Name, Code: 1, Err: err} // not started, or killed by a signal
}

// Environ returns the environment of the program for a call.
func (e *ExecHandlers) Environ(call HandlerCall) []string {
	env := []string{
		"HOME=/", "TERM=linux", "PATH=/sbin:/usr/sbin:/bin:/usr/bin",
		"DRBD_RESOURCE=" + call.Resource,
	}
	var volumes, minors, disks []string
	for _, v := range call.Volumes {
		volumes = append(volumes, strconv.Itoa(int(v.ID)))
		minors = append(minors, strconv.Itoa(v.Minor))
		disks = append(disks, or(e.Disks[v.ID], "none"))
	}
	env = append(env, "DRBD_VOLUME="+strings.Join(volumes, " "), "DRBD_MINOR="+strings.Join(minors, " "),
		"DRBD_LL_DISK="+strings.Join(disks, " "), "DRBD_PEER="+call.Peer, "DRBD_PEERS="+call.Peer)
	if host, _, err := net.SplitHostPort(call.Remote); err == nil {
		if ip := net.ParseIP(host); ip != nil {
			af := "ipv6"
			if ip.To4() != nil {
				af = "ipv4"
			}
			env = append(env, "DRBD_PEER_AF="+af, "DRBD_PEER_ADDRESS="+host)
		}
	}
	if e.Conf != "" {
		env = append(env, "DRBD_CONF="+e.Conf)
	}
	return slices.Concat(env, e.Env)
}

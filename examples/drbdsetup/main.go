// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Command drbdsetup controls a storageserver with the command line of DRBD 8.4's tool
// of the same name. Without arguments it lists its commands.
//
//	drbdsetup [--socket PATH] COMMAND ARGUMENTS [OPTIONS]
package main

import (
	"cmp"
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/go-blockmirror/blockmirror/examples/internal/control"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	socket := cmp.Or(os.Getenv("BLOCKMIRROR_SOCKET"), control.DefaultSocket)
	args := os.Args[1:]
	for len(args) > 0 && strings.HasPrefix(args[0], "--socket") {
		if path, given := strings.CutPrefix(args[0], "--socket="); given {
			socket, args = path, args[1:]
			continue
		}
		if args[0] != "--socket" || len(args) < 2 {
			break
		}
		socket, args = args[1], args[2:]
	}
	code := control.Main(ctx, socket, args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

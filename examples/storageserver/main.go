// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Command storageserver mirrors block devices to another node and serves them over NBD.
// It is one daemon for many resources, controlled with drbdsetup. See ../README.md.
//
//	storageserver [FLAGS]                run the daemon
//	storageserver create-md FILE...      write fresh metadata to disks
//	storageserver gen-certs NAME...      make certificates for trying TLS
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-blockmirror/blockmirror/examples/internal/daemon"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "storageserver:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "create-md":
			return daemon.CreateMD(args[1:], os.Stdout)
		case "gen-certs":
			return daemon.GenCerts(args[1:], os.Stdout)
		}
	}
	var cfg daemon.Config
	f := flag.NewFlagSet("storageserver", flag.ContinueOnError)
	f.SetOutput(io.Discard) // what is wrong comes back as an error
	f.StringVar(&cfg.Node, "node", "", "this node's `NAME` (default the host name)")
	f.StringVar(&cfg.Socket, "socket", os.Getenv("BLOCKMIRROR_SOCKET"), "`PATH` of the control socket (default $BLOCKMIRROR_SOCKET or /run/blockmirror.sock)")
	f.StringVar(&cfg.Conf, "conf", "", "`FILE` in the form of drbd.conf; without one drbdsetup configures everything")
	f.BoolVar(&cfg.AutoPromote, "auto-promote", false, "the first NBD client promotes a resource, the last one demotes it")
	f.IntVar(&cfg.SharedPort, "shared-port", 0, "one `PORT` for all resources, in place of those of their addresses; the peer must be a storageserver with the same flag")
	f.StringVar(&cfg.Cert, "tls-cert", "", "PEM `FILE` with this node's certificate; turns on TLS between the nodes and for NBD")
	f.StringVar(&cfg.Key, "tls-key", "", "PEM `FILE` with its key")
	f.StringVar(&cfg.CA, "tls-ca", "", "PEM `FILE` with the authorities that sign the nodes' and clients' certificates")
	f.StringVar(&cfg.NBD, "nbd", daemon.DefaultNBD, "`ADDRESS` at which the volumes are exported, or \"off\"")
	f.StringVar(&cfg.NBDSocket, "nbd-socket", "", "`PATH` of a unix socket that exports the volumes too, without TLS")
	f.StringVar(&cfg.Web, "web", daemon.DefaultWeb, "`ADDRESS` of the web page, /metrics, /healthz and /readyz, or \"off\"")
	f.StringVar(&cfg.WebCert, "web-cert", "", "PEM `FILE` with a certificate: the page is HTTPS")
	f.StringVar(&cfg.WebKey, "web-key", "", "PEM `FILE` with its key")
	f.StringVar(&cfg.WebCA, "web-client-ca", "", "PEM `FILE` with authorities: the page wants a client certificate of theirs")
	f.Func("log-level", "debug, info (default), warn or error", func(s string) error {
		return cfg.LogLevel.UnmarshalText([]byte(s))
	})
	cfg.LogLevel = slog.LevelInfo
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Println("Usage: storageserver [FLAGS] | create-md [-size SIZE] [-force] FILE... | gen-certs [-dir DIR] NAME[=HOST,...]...")
		f.SetOutput(os.Stdout)
		f.PrintDefaults()
		return nil
	case err != nil:
		return fmt.Errorf("%w; storageserver -help lists the flags", err)
	case f.NArg() > 0:
		return fmt.Errorf("%q is no command: run it with flags, or with create-md or gen-certs; see storageserver -help", f.Arg(0))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return daemon.Run(ctx, cfg, nil)
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/examples/internal/control"
	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

// Config is what the command line says. The zero value of a field stands for its
// default; addresses that are "off" leave that part out.
type Config struct {
	Node        string // this node's name, default the host's
	Socket      string // of control, default control.DefaultSocket
	AutoPromote bool
	Shared      bool // one port for all resources

	// Cert, Key and CA are PEM files for the connections between the nodes and for NBD;
	// empty for plain TCP.
	Cert, Key, CA string

	LogLevel slog.Level
	Log      io.Writer // default os.Stderr
}

// closeTimeout bounds an orderly end.
const closeTimeout = 20 * time.Second

// Run runs the daemon until ctx ends. ready, if not nil, is called when everything is
// in service.
func Run(ctx context.Context, cfg Config, ready func()) (err error) {
	out := cfg.Log
	if out == nil {
		out = os.Stderr
	}
	log := slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: cfg.LogLevel}))
	if cfg.Node == "" {
		if cfg.Node, err = os.Hostname(); err != nil {
			return err
		}
	}
	log = log.With("node", cfg.Node)
	tlsConfig, err := loadTLS(cfg.Cert, cfg.Key, cfg.CA)
	if err != nil {
		return err
	}
	n := node.New(node.Config{
		Name: cfg.Node, AutoPromote: cfg.AutoPromote, Logger: log,
		Network: node.NetworkConfig{TLS: tlsConfig, Shared: cfg.Shared},
	})
	d := &running{cfg: cfg, node: n, log: log}
	d.ctx, d.stop = context.WithCancel(ctx)
	defer func() {
		d.stop()
		d.parts.Wait()
		end, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		err = errors.Join(err, n.Close(end), d.failure())
		log.Info("ended")
	}()
	if err := d.start(); err != nil {
		return err
	}
	log.Info("in service", "control", cmp.Or(cfg.Socket, control.DefaultSocket))
	if ready != nil {
		ready()
	}
	<-d.ctx.Done()
	return nil
}

// running is a daemon that runs.
type running struct {
	cfg   Config
	node  *node.Node
	log   *slog.Logger
	ctx   context.Context
	stop  context.CancelFunc
	parts sync.WaitGroup

	mu  sync.Mutex
	err error
}

// start brings all parts into service.
func (d *running) start() error {
	l, err := control.Listen(cmp.Or(d.cfg.Socket, control.DefaultSocket))
	if err != nil {
		return err
	}
	d.part("control", func() error { return control.Serve(d.ctx, l, d.node) })
	return nil
}

// part runs one part of the daemon; its failure ends all.
func (d *running) part(name string, run func() error) {
	d.parts.Go(func() {
		err := run()
		if err == nil || errors.Is(err, net.ErrClosed) && d.ctx.Err() != nil {
			return
		}
		d.mu.Lock()
		d.err = errors.Join(d.err, fmt.Errorf("%s: %w", name, err))
		d.mu.Unlock()
		d.stop()
	})
}

func (d *running) failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

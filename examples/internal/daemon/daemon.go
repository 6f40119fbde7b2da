// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/examples/internal/conf"
	"github.com/go-blockmirror/blockmirror/examples/internal/control"
	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

// Config is what the command line says. The zero value of a field stands for its
// default; addresses that are "off" leave that part out.
type Config struct {
	Node        string // this node's name, default the host's
	Socket      string // of control, default control.DefaultSocket
	Conf        string // drbd.conf, default none: drbdsetup says all
	AutoPromote bool
	SharedPort  int // one port for all resources, 0 for a port each

	// Cert, Key and CA are PEM files for the connections between the nodes and for NBD;
	// empty for plain TCP.
	Cert, Key, CA string

	// NBD is the address at which the volumes are exported, default DefaultNBD, and
	// NBDSocket the path of a unix socket for the same. With Cert, clients on the
	// network need a certificate of CA; those of the socket need none.
	NBD, NBDSocket string

	// Web is the address of the page, the metrics and the health checks, default
	// DefaultWeb. WebCert and WebKey make it HTTPS, and WebCA demands a certificate of
	// those authorities from every client.
	Web, WebCert, WebKey, WebCA string

	LogLevel slog.Level
	Log      io.Writer // default os.Stderr
}

// Default addresses: nobody from elsewhere can reach them.
const (
	DefaultNBD = "127.0.0.1:10809"
	DefaultWeb = "127.0.0.1:7780"
	Off        = "off"
)

// closeTimeout bounds an orderly end.
const closeTimeout = 20 * time.Second

// Run runs the daemon until ctx ends. ready, if not nil, is called when everything is
// in service.
func Run(ctx context.Context, cfg Config, ready func(Addresses)) (err error) {
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
	if cfg.SharedPort < 0 || cfg.SharedPort > 65535 {
		return fmt.Errorf("-shared-port %d: want 1 to 65535", cfg.SharedPort)
	}
	log = log.With("node", cfg.Node)
	tlsConfig, err := loadTLS(cfg.Cert, cfg.Key, cfg.CA)
	if err != nil {
		return err
	}
	nc := node.Config{
		Name: cfg.Node, AutoPromote: cfg.AutoPromote, Logger: log, ConfFile: cfg.Conf,
		Network: node.NetworkConfig{TLS: tlsConfig, SharedPort: cfg.SharedPort},
	}
	if cfg.Conf != "" {
		nc.Load = func() ([]node.ResourceConfig, error) { return loadConf(cfg.Conf, cfg.Node, log) }
	}
	n := node.New(nc)
	d := &running{tls: tlsConfig, cfg: cfg, node: n, log: log, notReady: errors.New("the configuration is being brought up")}
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
	if err := d.bringUp(nc.Load); err != nil {
		return err
	}
	if ready != nil {
		ready(d.addresses())
	}
	<-d.ctx.Done()
	return nil
}

// Addresses are where a daemon listens, with the ports that it was given.
type Addresses struct{ Control, NBD, Web string }

func (d *running) addresses() Addresses {
	a := Addresses{Control: cmp.Or(d.cfg.Socket, control.DefaultSocket)}
	if d.nbd != nil {
		a.NBD = d.nbd.String()
	}
	if d.web != nil {
		a.Web = d.web.String()
	}
	return a
}

// inService is the moment from which /readyz says yes, if nothing is wrong.
func (d *running) inService(wrong error) {
	a := d.addresses()
	d.log.Info("in service", "control", a.Control, "nbd", a.NBD, "web", a.Web)
	d.mu.Lock()
	d.notReady = wrong
	d.mu.Unlock()
}

// loadConf reads drbd.conf and writes the warnings to the log.
func loadConf(path, host string, log *slog.Logger) ([]node.ResourceConfig, error) {
	list, warnings, err := conf.Load(path, host)
	for _, w := range warnings {
		log.Warn(w)
	}
	return list, err
}

// bringUp brings the resources of the configuration into service. One that does not come
// up is no reason to end: the others work, and /readyz says which one it is.
func (d *running) bringUp(load func() ([]node.ResourceConfig, error)) error {
	if load == nil {
		d.inService(nil)
		return nil
	}
	list, err := load()
	if list == nil {
		return fmt.Errorf("-conf: %w", err)
	}
	if len(list) == 0 && err == nil {
		d.log.Warn("no resource of the configuration is on this node; -node says which host this is")
	}
	if err != nil {
		d.log.Error("resources of the configuration are left out", "err", err)
	}
	errs := make([]error, len(list), len(list)+1)
	var some sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, c := range list {
		slots <- struct{}{}
		some.Go(func() {
			defer func() { <-slots }()
			if errs[i] = d.node.Up(d.ctx, c); errs[i] != nil {
				d.log.Error("a resource did not come up", "resource", c.Name, "err", errs[i])
			}
		})
	}
	some.Wait()
	d.inService(errors.Join(append(errs, err)...))
	return nil
}

// ready says why the daemon is not ready.
func (d *running) ready() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.notReady
}

// running is a daemon that runs.
type running struct {
	cfg   Config
	node  *node.Node
	log   *slog.Logger
	ctx   context.Context
	stop  context.CancelFunc
	parts sync.WaitGroup

	tls      *tls.Config
	nbd, web net.Addr // nil if off
	mu       sync.Mutex
	err      error // of parts that failed
	notReady error
}

// start brings all parts into service.
func (d *running) start() error {
	l, err := control.Listen(cmp.Or(d.cfg.Socket, control.DefaultSocket))
	if err != nil {
		return err
	}
	d.part("control", func() error { return control.Serve(d.ctx, l, d.node) })
	return errors.Join(d.startNBD(), d.startWeb())
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

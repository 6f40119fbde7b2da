// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"fmt"
	"net"

	"github.com/go-blockmirror/blockmirror/examples/internal/control"
	"github.com/go-blockmirror/blockmirror/examples/internal/exports"
	"github.com/go-blockmirror/blockmirror/examples/nbd"
)

// startNBD brings the exports into service: on the network with TLS if there is any,
// on the unix socket, which only this user can open, without.
func (d *running) startNBD() error {
	if addr := cmp.Or(d.cfg.NBD, DefaultNBD); addr != Off {
		l, err := (&net.ListenConfig{}).Listen(d.ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("nbd: %w; -nbd wants HOST:PORT of this machine, or off", err)
		}
		d.nbd = l.Addr()
		if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() && d.tls == nil {
			d.log.Warn("whoever reaches the NBD port can read and write all volumes: use TLS", "nbd", d.nbd.String())
		}
		if err := d.export(l, nbd.Config{TLS: d.tls, Logger: d.log}); err != nil {
			return err
		}
	}
	if d.cfg.NBDSocket == "" {
		return nil
	}
	l, err := control.Listen(d.cfg.NBDSocket)
	if err != nil {
		return fmt.Errorf("nbd: %w", err)
	}
	return d.export(l, nbd.Config{Logger: d.log})
}

func (d *running) export(l net.Listener, cfg nbd.Config) error {
	s, err := exports.NewServer(d.node, cfg)
	if err != nil {
		return fmt.Errorf("nbd: %w", err)
	}
	d.part("nbd", func() error { return s.Run(d.ctx, l) })
	return nil
}

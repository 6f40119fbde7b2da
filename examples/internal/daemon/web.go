// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/go-blockmirror/blockmirror/examples/internal/control"
	"github.com/go-blockmirror/blockmirror/examples/internal/web"
)

// startWeb brings the page into service.
func (d *running) startWeb() error {
	addr := cmp.Or(d.cfg.Web, DefaultWeb)
	if addr == Off {
		return nil
	}
	sec, err := webTLS(d.cfg.WebCert, d.cfg.WebKey, d.cfg.WebCA)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(d.ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("web: %w; -web wants HOST:PORT of this machine, or off", err)
	}
	d.web = l.Addr()
	tcp, _ := l.Addr().(*net.TCPAddr)
	local := tcp != nil && tcp.IP.IsLoopback()
	if !local && sec == nil {
		d.log.Warn("the web page is open to the network without TLS", "web", d.web.String())
	}
	sampler := web.NewSampler(d.node)
	d.part("sampler", func() error { sampler.Run(d.ctx); return nil })
	h := web.Handler(d.node, sampler, d.ready, local)
	d.part("web", func() error { return control.ServeHTTP(d.ctx, l, sec, h) })
	return nil
}

// webTLS returns the configuration of an HTTPS server, nil for plain HTTP.
func webTLS(cert, key, clients string) (*tls.Config, error) {
	if cert == "" && key == "" {
		if clients != "" {
			return nil, errors.New("web: -web-client-ca needs -web-cert and -web-key")
		}
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("web: -web-cert and -web-key: %w", err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	if clients == "" {
		return cfg, nil
	}
	cfg.ClientCAs, err = readPool(clients)
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	return cfg, err
}

// readPool reads certificates of authorities.
func readPool(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("TLS: %s has no certificate in it", path)
	}
	return pool, nil
}

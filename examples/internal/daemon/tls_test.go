// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/tls"
	"io"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// certs makes certificates and returns what gives a daemon those of one name.
func (l *lab) certs(dir string, names ...string) func(name string) func(*Config) {
	require.NoError(l.t, GenCerts(append([]string{"-dir", l.path(dir)}, names...), io.Discard))
	return func(name string) func(*Config) {
		return func(c *Config) {
			d := filepath.Join(l.path(dir), name)
			c.Cert, c.Key, c.CA = filepath.Join(d, "server-cert.pem"), filepath.Join(d, "server-key.pem"), filepath.Join(d, "ca-cert.pem")
		}
	}
}

// node starts a daemon with one resource that looks for a peer of a name.
func (l *lab) node(name, disk, local, remote, peer string, change func(*Config)) *instance {
	d := l.start(name, change)
	d.ok("new-resource r0", "new-minor r0 0 0", "attach 0 "+l.disk(disk, 4<<20)+" internal internal"+diskFast,
		"connect r0 "+local+" "+remote+" --peer-name="+peer+fast)
	return d
}

// TestTLS connects two nodes with certificates, and refuses a node with another's name
// and one with a certificate of another authority.
func TestTLS(t *testing.T) {
	for _, shared := range []bool{false, true} {
		name := map[bool]string{false: "a port each", true: "shared listener"}[shared]
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			ports, change := l.shared()
			if !shared {
				ports, change = l.ports(2), func(*Config) {}
			}
			good := l.certs("certs", "alpha", "beta", "mallory")
			bad := l.certs("other", "beta")
			with := func(f func(*Config)) func(*Config) {
				return func(c *Config) { f(c); change(c) }
			}
			alpha := l.node("alpha", "a.img", ports[0], ports[1], "beta", with(good("alpha")))

			mallory := l.node("mallory", "m.img", ports[1], ports[0], "alpha", with(good("mallory")))
			alpha.logged("certificate is not the expected node's")
			require.Equal(t, "WFConnection\n", alpha.ok("cstate 0"))
			require.Equal(t, "WFConnection\n", mallory.ok("cstate 0"))
			mallory.end()

			forged := l.node("forged", "f.img", ports[1], ports[0], "alpha", with(bad("beta")))
			alpha.logged("certificate signed by unknown authority")
			require.Equal(t, "WFConnection\n", alpha.ok("cstate 0"))
			require.Equal(t, "WFConnection\n", forged.ok("cstate 0"))
			forged.end()

			plain := l.node("plain", "p.img", ports[1], ports[0], "alpha", with(func(*Config) {}))
			alpha.logged("first record does not look like a TLS handshake")
			require.Equal(t, "WFConnection\n", plain.ok("cstate 0"))
			plain.end()

			beta := l.node("beta", "b.img", ports[1], ports[0], "alpha", with(good("beta")))
			alpha.ok("wait-connect 0", "primary 0 --force")
			beta.inSync()
			require.Contains(t, alpha.ok("status --json"), `"tls": true`)
		})
	}
}

// TestWebClientCertificate lets nobody see the page who has no certificate.
func TestWebClientCertificate(t *testing.T) {
	l := newLab(t)
	l.certs("certs", "alpha=127.0.0.1", "monitoring")
	dir := l.path("certs")
	d := l.start("alpha", func(c *Config) {
		c.WebCert, c.WebKey = filepath.Join(dir, "alpha/server-cert.pem"), filepath.Join(dir, "alpha/server-key.pem")
		c.WebCA = filepath.Join(dir, "alpha/ca-cert.pem")
	})
	get := func(certs ...tls.Certificate) (*http.Response, error) {
		pool, err := readPool(filepath.Join(dir, "alpha/ca-cert.pem"))
		require.NoError(t, err)
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certs}}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get("https://" + d.at.Web + "/healthz")
		if err == nil {
			require.NoError(t, resp.Body.Close())
		}
		return resp, err
	}
	_, err := get()
	require.ErrorContains(t, err, "certificate required")
	own, err := tls.LoadX509KeyPair(filepath.Join(dir, "monitoring/client-cert.pem"), filepath.Join(dir, "monitoring/client-key.pem"))
	require.NoError(t, err)
	resp, err := get(own)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

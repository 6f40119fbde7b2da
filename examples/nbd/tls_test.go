// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// authority makes certificates, in a folder with the names that nbd's clients look
// for: ca-cert.pem, server-cert.pem, client-cert.pem, and keys.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.sign(t, "ca", nil, nil)
	a.sign(t, "server", a.cert, a.key)
	a.sign(t, "client", a.cert, a.key)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) sign(t testing.TB, name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if parent == nil {
		tmpl.IsCA, tmpl.KeyUsage, tmpl.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
		tmpl.DNSNames, tmpl.IPAddresses = nil, nil
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for file, block := range map[string]*pem.Block{
		name + "-cert.pem": {Type: "CERTIFICATE", Bytes: der},
		name + "-key.pem":  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		require.NoError(t, os.WriteFile(a.path(file), pem.EncodeToMemory(block), 0o600))
	}
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert, key
}

// server returns a configuration that wants certificates of clients, or does not.
func (a *authority) server(t testing.TB, mutual bool) *tls.Config {
	ca := ""
	if mutual {
		ca = a.path("ca-cert.pem")
	}
	cfg, err := TLSFiles(a.path("server-cert.pem"), a.path("server-key.pem"), ca)
	require.NoError(t, err)
	return cfg
}

func (a *authority) client(t testing.TB, certificate bool) *tls.Config {
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}
	cfg.RootCAs.AddCert(a.cert)
	if certificate {
		pair, err := tls.LoadX509KeyPair(a.path("client-cert.pem"), a.path("client-key.pem"))
		require.NoError(t, err)
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg
}

func TestTLS(t *testing.T) {
	a := newAuthority(t)
	addr := listen(t, newServer(t, Config{TLS: a.server(t, true)}, memory("", 1<<20)))
	c := dial(t, addr, flagFixedNewstyle)
	for _, opt := range []uint32{optList, optGo, optInfo, optStructuredReply, optSetMeta, 99} {
		require.EqualValues(t, repErrTLSReqd, c.one(opt, nil))
	}
	require.EqualValues(t, repErrInvalid, c.one(optStartTLS, []byte{1}))
	require.NoError(t, c.secure(a.client(t, true)))
	require.Equal(t, uint16(tls.VersionTLS13), c.nc.(*tls.Conn).ConnectionState().Version)
	require.EqualValues(t, repErrInvalid, c.one(optStartTLS, nil), "once is enough")
	c.enter("")
	require.Zero(t, c.do(cmdWrite, 0, 0, 1<<20, make([]byte, 1<<20)).errno)
	require.Zero(t, c.do(cmdRead, 0, 0, 1<<20, nil).errno)

	c = dial(t, addr, flagFixedNewstyle)
	c.write(encodeOption(optExportName, nil))
	c.gone()
	require.EqualValues(t, repAck, dial(t, addr, flagFixedNewstyle).one(optAbort, nil))
}

func TestTLSRefuses(t *testing.T) {
	a := newAuthority(t)
	addr := listen(t, newServer(t, Config{TLS: a.server(t, true)}, memory("", 1<<20)))
	t.Run("no certificate", func(t *testing.T) {
		c := dial(t, addr, flagFixedNewstyle)
		require.NoError(t, c.secure(a.client(t, false)), "in TLS 1.3 the client hears of it later")
		c.gone()
	})
	t.Run("a stranger's certificate", func(t *testing.T) {
		cfg := newAuthority(t).client(t, true)
		cfg.RootCAs = a.client(t, false).RootCAs
		c := dial(t, addr, flagFixedNewstyle)
		require.NoError(t, c.secure(cfg))
		c.gone()
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		cfg := a.client(t, true)
		cfg.MaxVersion = tls.VersionTLS12
		require.Error(t, dial(t, addr, flagFixedNewstyle).secure(cfg))
	})
	t.Run("plain text behind STARTTLS", func(t *testing.T) {
		c := dial(t, addr, flagFixedNewstyle)
		c.write(append(encodeOption(optStartTLS, nil), encodeOption(optList, nil)...))
		c.gone()
	})
	t.Run("no TLS here", func(t *testing.T) {
		c := dial(t, listen(t, newServer(t, Config{})), flagFixedNewstyle)
		require.EqualValues(t, repErrPolicy, c.one(optStartTLS, nil))
	})
}

// What was agreed on in plain text does not count any more.
func TestTLSForgets(t *testing.T) {
	a := newAuthority(t)
	cfg := a.server(t, false)
	cfg.MinVersion = tls.VersionTLS10 // is raised
	addr := listen(t, newServer(t, Config{TLS: cfg, AllowPlain: true}, memory("", 1<<20)))
	c := dial(t, addr, flagFixedNewstyle)
	require.EqualValues(t, repAck, c.one(optStructuredReply, nil))
	require.NoError(t, c.secure(a.client(t, false)))
	require.EqualValues(t, repErrInvalid, c.one(optSetMeta, encodeMeta("", metaAllocation)))
	c.enter("")
	require.False(t, c.do(cmdRead, 0, 0, 512, nil).structured)
	require.Zero(t, open(t, addr, "", true).do(cmdRead, 0, 0, 512, nil).errno, "plain text is allowed here")
}

func TestTLSFiles(t *testing.T) {
	a := newAuthority(t)
	_, err := TLSFiles(a.path("server-cert.pem"), a.path("client-key.pem"), "")
	require.Error(t, err)
	_, err = TLSFiles(a.path("server-cert.pem"), a.path("server-key.pem"), a.path("none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = TLSFiles(a.path("server-cert.pem"), a.path("server-key.pem"), a.path("server-key.pem"))
	require.ErrorContains(t, err, "no certificate")
}

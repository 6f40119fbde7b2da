// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// authority signs certificates of nodes.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{cert: cert, key: key, pool: pool}
}

// node returns the TLS configuration of a node called name.
func (a *authority) node(t testing.TB, name string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	require.NoError(t, err)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      a.pool,
	}
}

// errorLog is a logger that waits for an error to be logged.
type errorLog struct {
	slog.Handler
	mu   sync.Mutex
	errs []error
	more sync.Cond
}

func newErrorLog() *errorLog {
	l := &errorLog{Handler: slog.DiscardHandler}
	l.more.L = &l.mu
	return l
}

func (l *errorLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *errorLog) WithAttrs([]slog.Attr) slog.Handler       { return l }

func (l *errorLog) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			l.mu.Lock()
			l.errs = append(l.errs, err)
			l.more.Broadcast()
			l.mu.Unlock()
		}
		return true
	})
	return nil
}

// wait returns the first logged error that is target.
func (l *errorLog) wait(target error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for _, err := range l.errs {
			if errors.Is(err, target) {
				return err
			}
		}
		l.more.Wait()
	}
}

func TestTLSConnect(t *testing.T) {
	ca := newAuthority(t, "site")
	la, lb := freeAddr(t), freeAddr(t)
	mk := func(local, remote, name, peer string) *TCP {
		tr, err := NewTLS(TCPConfig{Local: local, Remote: remote, SocketCheckTimeout: 100 * time.Millisecond},
			TLSConfig{Config: ca.node(t, name), ExpectedPeerName: peer})
		require.NoError(t, err)
		return tr
	}
	a, b := mk(la, lb, "alpha", "beta"), mk(lb, la, "beta", "alpha")
	ra, rb := connectBoth(testContext(t), a, b)
	require.NoError(t, ra.err)
	require.NoError(t, rb.err)
	defer ra.pair.Close()
	defer rb.pair.Close()
	requireJoined(t, ra.pair, rb.pair)
	sec := ra.pair.Data.(interface{ NetConn() net.Conn }).NetConn().(*tls.Conn).ConnectionState()
	require.EqualValues(t, tls.VersionTLS13, sec.Version)
	require.Equal(t, "beta", sec.PeerCertificates[0].Subject.CommonName)
}

// TestTLSRefused: whoever is not the expected node is refused on both sides, and
// both say so, whichever side dials.
func TestTLSRefused(t *testing.T) {
	ca, other := newAuthority(t, "site"), newAuthority(t, "elsewhere")
	tests := []struct {
		name string
		beta *tls.Config // what beta shows and trusts
	}{
		{"wrong name", ca.node(t, "mallory")},
		{"wrong authority", func() *tls.Config {
			c := other.node(t, "beta")
			c.RootCAs = ca.pool // it would accept alpha
			return c
		}()},
	}
	for _, tc := range tests {
		for _, dialler := range []string{"alpha", "beta"} {
			t.Run(tc.name+", dialled by "+dialler, func(t *testing.T) {
				// Only one side reaches the other: the roles are fixed.
				la, lb := freeAddr(t), freeAddr(t)
				ra, rb := lb, la
				if dialler == "alpha" {
					rb = freeAddr(t)
				} else {
					ra = freeAddr(t)
				}
				logA, logB := newErrorLog(), newErrorLog()
				a, err := NewTLS(TCPConfig{Local: la, Remote: ra, Logger: slog.New(logA), ConnectInterval: 2 * time.Second},
					TLSConfig{Config: ca.node(t, "alpha"), ExpectedPeerName: "beta"})
				require.NoError(t, err)
				b, err := NewTLS(TCPConfig{Local: lb, Remote: rb, Logger: slog.New(logB), ConnectInterval: 2 * time.Second},
					TLSConfig{Config: tc.beta, ExpectedPeerName: "alpha"})
				require.NoError(t, err)
				var wg sync.WaitGroup
				wg.Go(func() {
					_, err := a.Connect(context.Background())
					require.ErrorIs(t, err, ErrClosed)
				})
				wg.Go(func() {
					_, err := b.Connect(context.Background())
					require.ErrorIs(t, err, ErrClosed)
				})
				require.ErrorContains(t, logA.wait(ErrPeerIdentity), "certificate")
				require.ErrorContains(t, logB.wait(ErrCertificateRefused), "refused this node's certificate")
				require.NoError(t, a.Close())
				require.NoError(t, b.Close())
				wg.Wait()
			})
		}
	}
}

func TestTLSPlainPeerRefused(t *testing.T) {
	ca := newAuthority(t, "site")
	la, lb := freeAddr(t), freeAddr(t)
	logs := newErrorLog()
	a, err := NewTLS(TCPConfig{Local: la, Remote: freeAddr(t), Logger: slog.New(logs)},
		TLSConfig{Config: ca.node(t, "alpha"), ExpectedPeerName: "beta"})
	require.NoError(t, err)
	b, err := NewTCP(TCPConfig{Local: lb, Remote: la, ConnectInterval: 100 * time.Millisecond})
	require.NoError(t, err)
	var wg sync.WaitGroup
	for _, tr := range []Transport{a, b} {
		wg.Go(func() {
			_, err := tr.Connect(context.Background())
			require.ErrorIs(t, err, ErrClosed)
		})
	}
	var notTLS tls.RecordHeaderError
	logs.mu.Lock()
	for !func() bool {
		for _, err := range logs.errs {
			if errors.As(err, &notTLS) {
				return true
			}
		}
		return false
	}() {
		logs.more.Wait()
	}
	logs.mu.Unlock()
	a.Close()
	b.Close()
	wg.Wait()
}

func TestTLSConfigChecked(t *testing.T) {
	ca := newAuthority(t, "site")
	tcp := TCPConfig{Local: "127.0.0.1:1", Remote: "127.0.0.1:2"}
	good := func() TLSConfig { return TLSConfig{Config: ca.node(t, "alpha"), ExpectedPeerName: "beta"} }
	tests := []struct {
		change func(c *TLSConfig)
		want   string
	}{
		{func(c *TLSConfig) { c.Config = nil }, "Config is nil"},
		{func(c *TLSConfig) { c.ExpectedPeerName = "" }, "ExpectedPeerName is empty"},
		{func(c *TLSConfig) { c.RootCAs = nil }, "neither RootCAs nor ClientCAs"},
		{func(c *TLSConfig) { c.Certificates = nil }, "no certificate"},
	}
	for _, tc := range tests {
		c := good()
		tc.change(&c)
		_, err := NewTLS(tcp, c)
		require.ErrorContains(t, err, tc.want)
	}
	// What must not be weakened is not.
	c := good()
	c.InsecureSkipVerify = true
	c.MinVersion = tls.VersionTLS10
	c.MaxVersion = tls.VersionTLS12
	c.ClientAuth = tls.NoClientCert
	tr, err := NewTLS(tcp, c)
	require.NoError(t, err)
	for _, used := range []*tls.Config{tr.streams.(*tlsStreams).client, tr.streams.(*tlsStreams).server} {
		require.False(t, used.InsecureSkipVerify)
		require.EqualValues(t, tls.VersionTLS13, used.MinVersion)
		require.EqualValues(t, tls.VersionTLS13, used.MaxVersion)
		require.Equal(t, tls.RequireAndVerifyClientCert, used.ClientAuth)
	}
}

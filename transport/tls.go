// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// ErrCertificateRefused: the peer did not accept this node's certificate. Its log
// says why.
var ErrCertificateRefused = errors.New("transport: the peer refused this node's certificate, see its log")

// alpn names our use of TLS, so that a connection from any other use is refused.
const alpn = "blockmirror/1"

// TLSConfig says how two blockmirror nodes prove who they are: TLS 1.3, and both
// show a certificate. A kernel's DRBD does not speak TLS.
type TLSConfig struct {
	// Config holds this node's certificate (usable for both client and server
	// authentication) and, in RootCAs or ClientCAs, the authorities that sign the
	// peer's; if one of the two is nil the other is used for both. The version is
	// always 1.3, and the peer's certificate is always demanded and verified. The
	// Config is copied.
	*tls.Config
	// ExpectedPeerName is the DNS name or IP address that the peer's certificate
	// must be for, whichever side dialled.
	ExpectedPeerName string
}

// NewTLS returns a transport like NewTCP's whose two streams are TLS. The
// configuration is checked at once.
func NewTLS(cfg TCPConfig, sec TLSConfig) (*TCP, error) {
	s, err := newTCPStreams(&cfg)
	if err != nil {
		return nil, err
	}
	if sec.ExpectedPeerName == "" {
		return nil, errors.New("transport: TLSConfig.ExpectedPeerName is empty: name the peer that the certificate must be for")
	}
	base, err := sec.base()
	if err != nil {
		return nil, err
	}
	t := &tlsStreams{tcpStreams: s, client: clientTLS(base, sec.ExpectedPeerName), server: base.Clone()}
	t.server.VerifyConnection = chain(base.VerifyConnection, func(cs tls.ConnectionState) error {
		return verifyName(cs, sec.ExpectedPeerName)
	})
	return &TCP{newConnector(t, cfg.pairing())}, nil
}

// base returns a copy of the configuration with what is not negotiable.
func (c TLSConfig) base() (*tls.Config, error) {
	if c.Config == nil {
		return nil, errors.New("transport: TLSConfig.Config is nil: it must hold a certificate and the authorities")
	}
	b := c.Config.Clone()
	if b.RootCAs == nil {
		b.RootCAs = b.ClientCAs
	}
	if b.ClientCAs == nil {
		b.ClientCAs = b.RootCAs
	}
	if b.RootCAs == nil {
		return nil, errors.New("transport: TLSConfig: neither RootCAs nor ClientCAs is set: name the authorities that sign the nodes' certificates")
	}
	if len(b.Certificates) == 0 && (b.GetCertificate == nil || b.GetClientCertificate == nil) {
		return nil, errors.New("transport: TLSConfig: no certificate: set Certificates, or both GetCertificate and GetClientCertificate")
	}
	b.MinVersion = tls.VersionTLS13
	b.MaxVersion = tls.VersionTLS13
	b.ClientAuth = tls.RequireAndVerifyClientCert
	b.InsecureSkipVerify = false
	b.NextProtos = []string{alpn}
	b.SessionTicketsDisabled = true // every connection proves both names anew
	b.ClientSessionCache = nil
	return b, nil
}

// clientTLS returns the configuration of the dialling side.
func clientTLS(base *tls.Config, peer string) *tls.Config {
	c := base.Clone()
	c.ServerName = peer
	if c.GetClientCertificate == nil {
		// Show it even to a peer that would not accept it: its log then says why,
		// instead of "no certificate".
		own := &c.Certificates[0]
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	c.VerifyConnection = chain(c.VerifyConnection, verifyProtocol)
	return c
}

// chain calls the user's own check, if any, and then ours.
func chain(first, then func(tls.ConnectionState) error) func(tls.ConnectionState) error {
	if first == nil {
		return then
	}
	return func(cs tls.ConnectionState) error {
		if err := first(cs); err != nil {
			return err
		}
		return then(cs)
	}
}

func verifyProtocol(cs tls.ConnectionState) error {
	if cs.NegotiatedProtocol != alpn {
		return fmt.Errorf("transport: the peer speaks TLS but not %s", alpn)
	}
	return nil
}

// verifyName checks on the accepting side whose certificate it is.
func verifyName(cs tls.ConnectionState, peer string) error {
	if err := verifyProtocol(cs); err != nil {
		return err
	}
	if len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("%w: it has shown none", ErrPeerIdentity)
	}
	if err := cs.PeerCertificates[0].VerifyHostname(peer); err != nil {
		return fmt.Errorf("%w: %w", ErrPeerIdentity, err)
	}
	return nil
}

// certificateAlerts are the TLS alerts that mean "I do not like your certificate"
// (RFC 8446, section 6.2): bad_certificate to certificate_unknown, unknown_ca,
// access_denied, certificate_required.
var certificateAlerts = []tls.AlertError{42, 43, 44, 45, 46, 48, 49, 116}

// explainTLS gives the errors of a TLS stream the sentinels of this package. With
// TLS 1.3 the dialling side learns that it was refused only when it reads.
func explainTLS(err error) error {
	var bad *tls.CertificateVerificationError
	if errors.As(err, &bad) && !errors.Is(err, ErrPeerIdentity) {
		return fmt.Errorf("%w: %w", ErrPeerIdentity, err)
	}
	// crypto/tls exports the texts of the alerts but not the error it returns.
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		for _, a := range certificateAlerts {
			if op.Err.Error() == a.Error() {
				return fmt.Errorf("%w: %w", ErrCertificateRefused, err)
			}
		}
	}
	return err
}

// tlsStreams is the Streams of TLS over TCP.
type tlsStreams struct {
	*tcpStreams
	client, server *tls.Config
}

// Dial implements Streams.
func (s *tlsStreams) Dial(ctx context.Context) (net.Conn, error) {
	c, err := s.tcpStreams.Dial(ctx)
	if err != nil {
		return nil, err
	}
	t := tls.Client(c, s.client)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("TLS with %s: %w", s.remote, explainTLS(err))
	}
	return t, nil
}

// Listen implements Streams. The handshake of an accepted connection happens in
// its first Read, so that a slow one does not hold up others.
func (s *tlsStreams) Listen(ctx context.Context) (net.Listener, error) {
	ln, err := s.tcpStreams.Listen(ctx)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(ln, s.server), nil
}

func (s *tlsStreams) String() string { return s.tcpStreams.String() + " (TLS)" }

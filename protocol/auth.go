// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bytes"
	"crypto/hmac"
	"crypto/subtle"
	"fmt"
	"io"
)

// Limits of CRAM-HMAC authentication. spec: wire 4.2.
const (
	// ChallengeBytes is the size of the challenge a DRBD node sends.
	ChallengeBytes = 64
	// MaxChallengeBytes is the size of the longest challenge that is answered.
	MaxChallengeBytes = 128
	// MaxSecretBytes is the size of the longest shared secret.
	MaxSecretBytes = 63
)

// AuthChallenge is P_AUTH_CHALLENGE. After Decode the bytes alias the body.
type AuthChallenge struct {
	Challenge []byte
}

// AppendTo appends the challenge.
func (p AuthChallenge) AppendTo(dst []byte, _ *Session) []byte { return append(dst, p.Challenge...) }

// Decode takes the challenge. Errors: ErrChallenge if it has fewer than
// ChallengeBytes or more than MaxChallengeBytes.
func (p *AuthChallenge) Decode(body []byte, _ *Session) error {
	if err := checkChallengeLength(body); err != nil {
		return err
	}
	p.Challenge = alias(body)
	return nil
}

// AuthResponse is P_AUTH_RESPONSE. After Decode the bytes alias the body.
type AuthResponse struct {
	Response []byte
}

// AppendTo appends the response.
func (p AuthResponse) AppendTo(dst []byte, _ *Session) []byte { return append(dst, p.Response...) }

// Decode takes the response; VerifyResponse judges its length. Errors:
// ErrResponseLength if it is longer than any digest.
func (p *AuthResponse) Decode(body []byte, _ *Session) error {
	if len(body) > MaxDigestBytes {
		return fmt.Errorf("%w: %d bytes", ErrResponseLength, len(body))
	}
	p.Response = alias(body)
	return nil
}

// NewChallenge reads a new challenge from random, which must be
// cryptographically secure (crypto/rand.Reader). A challenge serves once.
// Errors: that of random.
func NewChallenge(random io.Reader) ([]byte, error) {
	c := make([]byte, ChallengeBytes)
	if _, err := io.ReadFull(random, c); err != nil {
		return nil, fmt.Errorf("protocol: no randomness for a challenge: %w", err)
	}
	return c, nil
}

// CheckChallenge judges the challenge of the peer before it is answered. own is the
// challenge this node sent. Errors: ErrChallenge for its length; ErrReflection if it
// begins with the own one, which a man in the middle would send to have us compute
// his answer.
func CheckChallenge(own, peer []byte) error {
	if err := checkChallengeLength(peer); err != nil {
		return err
	}
	if bytes.Equal(peer[:ChallengeBytes], own) {
		return ErrReflection
	}
	return nil
}

func checkChallengeLength(c []byte) error {
	if len(c) < ChallengeBytes || len(c) > MaxChallengeBytes {
		return fmt.Errorf("%w: %d bytes, want %d to %d", ErrChallenge, len(c), ChallengeBytes, MaxChallengeBytes)
	}
	return nil
}

// Response computes what answers the peer's challenge: HMAC of the whole challenge,
// with the shared secret as key. alg is the cram-hmac-alg: md5, sha1, sha224, sha256,
// sha384 or sha512. spec: wire 4.2.
//
// Errors: ErrUnknownAlgorithm, ErrSecret.
func Response(alg string, secret, challenge []byte) ([]byte, error) {
	d, err := LookupDigest(alg)
	if err != nil {
		return nil, err
	}
	newHash := d.newHash()
	if newHash == nil {
		return nil, fmt.Errorf("%w: %q cannot authenticate, use sha256", ErrUnknownAlgorithm, alg)
	}
	if len(secret) == 0 || len(secret) > MaxSecretBytes {
		return nil, fmt.Errorf("%w: it has %d", ErrSecret, len(secret))
	}
	m := hmac.New(newHash, secret)
	m.Write(challenge)
	return m.Sum(nil), nil
}

// VerifyResponse judges the peer's response to the challenge this node sent, in
// constant time. Errors: ErrResponseLength, which may be retried;
// ErrAuthentication, which must not; and those of Response.
func VerifyResponse(alg string, secret, ownChallenge, response []byte) error {
	want, err := Response(alg, secret, ownChallenge)
	if err != nil {
		return err
	}
	if len(response) != len(want) {
		return fmt.Errorf("%w: %d bytes, %d with %s", ErrResponseLength, len(response), len(want), alg)
	}
	if subtle.ConstantTimeCompare(response, want) != 1 {
		return ErrAuthentication
	}
	return nil
}

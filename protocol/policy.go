// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"fmt"
	"strconv"
)

// ReplicationProtocol is DRBD's protocol A, B or C: which answer of the peer a
// write waits for. spec: wire 8.5.
type ReplicationProtocol uint32

// The replication protocols, with their values in P_PROTOCOL.
const (
	// A: a write is complete when it is on the own disk and handed to TCP.
	A ReplicationProtocol = 1
	// B: when it is on the own disk and has arrived at the peer.
	B ReplicationProtocol = 2
	// C: when it is on both disks.
	C ReplicationProtocol = 3

	// The same by longer names, for places where a single letter would not
	// be understood.
	ProtocolA = A
	ProtocolB = B
	ProtocolC = C
)

// String returns "A", "B" or "C".
func (p ReplicationProtocol) String() string {
	if p >= A && p <= C {
		return string(rune('A' + p - A))
	}
	return "protocol(" + strconv.FormatUint(uint64(p), 10) + ")"
}

// Policy is an automatic split-brain recovery policy: a value of after-sb-0pri,
// after-sb-1pri or after-sb-2pri. Which values make sense for which of the three:
// spec: behaviour 4.3.
type Policy uint32

// The policies, with their values in P_PROTOCOL.
const (
	PolicyDisconnect            Policy = 0
	PolicyDiscardYoungerPrimary Policy = 1
	PolicyDiscardOlderPrimary   Policy = 2
	PolicyDiscardZeroChanges    Policy = 3
	PolicyDiscardLeastChanges   Policy = 4
	PolicyDiscardLocal          Policy = 5
	PolicyDiscardRemote         Policy = 6
	PolicyConsensus             Policy = 7
	PolicyDiscardSecondary      Policy = 8
	PolicyCallPriLost           Policy = 9
	PolicyViolently             Policy = 10
)

// policyNames are the values as they are written in drbd.conf.
func policyNames() []string {
	return []string{
		"disconnect", "discard-younger-primary", "discard-older-primary", "discard-zero-changes",
		"discard-least-changes", "discard-local", "discard-remote", "consensus", "discard-secondary",
		"call-pri-lost-after-sb", "violently-as0p",
	}
}

// String returns the name used in drbd.conf, for example "discard-zero-changes".
func (p Policy) String() string {
	if names := policyNames(); p <= PolicyViolently {
		return names[p]
	}
	return "policy(" + strconv.FormatUint(uint64(p), 10) + ")"
}

// ParsePolicy returns the policy with that name in drbd.conf. Errors: ErrField.
func ParsePolicy(name string) (Policy, error) {
	for i, n := range policyNames() {
		if n == name {
			return Policy(i), nil
		}
	}
	return 0, fmt.Errorf("%w: unknown split-brain policy %q", ErrField, name)
}

// Mirrored returns the policy the peer must have so that both mean the same:
// discard-local and discard-remote change places, all others stay. spec: wire 4.3.
func (p Policy) Mirrored() Policy {
	switch p {
	case PolicyDiscardLocal:
		return PolicyDiscardRemote
	case PolicyDiscardRemote:
		return PolicyDiscardLocal
	}
	return p
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import "fmt"

// ReadBalancing says which node serves a read of the Primary that both can serve
// (spec: behaviour 5.7). A read that one node fails goes to the other, whatever the
// policy. A block that this node has just written, and that the peer may not have on
// its disk yet, is read here.
type ReadBalancing uint8

// The policies, as read-balancing has them.
const (
	// ReadLocal reads the own disk ("prefer-local").
	ReadLocal ReadBalancing = iota
	// ReadRemote reads the peer's ("prefer-remote").
	ReadRemote
	// ReadRoundRobin takes turns ("round-robin").
	ReadRoundRobin
	// ReadLeastPending reads the peer's disk while the own one has more requests in
	// progress than the peer owes answers ("least-pending").
	ReadLeastPending
	// ReadCongestedRemote reads the peer's disk while the own one has QueueDepth
	// requests or more in progress ("when-congested-remote"; DRBD asks the kernel's
	// block layer).
	ReadCongestedRemote
	// ReadStriping32K to ReadStriping1M read every other stripe of that size, the
	// second first, from the peer ("32K-striping" to "1M-striping"). The first sector
	// of a request decides.
	ReadStriping32K
	ReadStriping64K
	ReadStriping128K
	ReadStriping256K
	ReadStriping512K
	ReadStriping1M
)

var readBalancingNames = [...]string{
	"prefer-local", "prefer-remote", "round-robin", "least-pending", "when-congested-remote",
	"32K-striping", "64K-striping", "128K-striping", "256K-striping", "512K-striping", "1M-striping",
}

// String returns the name used in drbd.conf.
func (b ReadBalancing) String() string {
	if int(b) < len(readBalancingNames) {
		return readBalancingNames[b]
	}
	return fmt.Sprintf("ReadBalancing(%d)", uint8(b))
}

// ParseReadBalancing returns the policy of that name. Errors: ErrConfig.
func ParseReadBalancing(name string) (ReadBalancing, error) {
	for i, n := range readBalancingNames {
		if n == name {
			return ReadBalancing(i), nil
		}
	}
	return 0, fmt.Errorf("%w: there is no read-balancing %q", ErrConfig, name)
}

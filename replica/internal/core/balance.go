// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

// ReadBalancing says who serves a read that both disks can serve (spec: behaviour 5.7).
type ReadBalancing uint8

// The values of read-balancing, in the order of spec: behaviour 5.7.
const (
	ReadLocal ReadBalancing = iota
	ReadRemote
	ReadRoundRobin
	ReadLeastPending
	ReadCongestedRemote
	ReadStriping32K
	ReadStriping64K
	ReadStriping128K
	ReadStriping256K
	ReadStriping512K
	ReadStriping1M

	readPolicies
)

// diskCongested reports whether the own disk has all the requests that it may have at one
// time: any more wait in front of it.
func (v *volume) diskCongested() bool {
	depth := v.cfg.DiskDepth
	setDefault(&depth, 64)
	return v.localPending >= depth
}

// goesToPeer decides where both could. What this node has written, and the peer may
// not have on its disk yet, is read here: with protocol A and B such a write has been
// acknowledged to the application.
func (r *request) goesToPeer() bool {
	v, pd := r.v, r.v.pds[0]
	remote := false
	switch policy := v.cfg.ReadBalancing; policy {
	case ReadLocal:
		return false
	case ReadRemote:
		remote = true
	case ReadRoundRobin:
		v.turn = !v.turn
		remote = v.turn
	case ReadLeastPending:
		remote = v.localPending > pd.inFlight+pd.pending+pd.rsPending
	case ReadCongestedRemote:
		remote = v.diskCongested()
	default:
		shift := 15 + uint(policy-ReadStriping32K) - 9
		remote = r.sector>>shift&1 == 1
	}
	return remote && !v.unstable(r.sector, r.sector+uint64(r.size)/512)
}

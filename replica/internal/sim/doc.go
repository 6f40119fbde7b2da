// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package sim runs whole clusters of cores in virtual time. One seed decides
// everything: the delay of every disk operation and packet, what a crash keeps, when
// the link is cut. It is for tests only.
//
//	         events, in virtual time
//	  ┌──────────────┬───────────────┐
//	  ▼              ▼               ▼
//	Node a         Network         Node b         the same core.Core that ships
//	 core ──Out──► streams ──────►  core
//	  │ Ops                          │ Ops
//	  ▼                              ▼
//	Disk (volatile cache,          Disk
//	torn and lost writes)
//
// The fault model: a write is durable once a flush that began after its completion
// has ended, or if it carried FUA. A crash keeps, drops or tears (at 512 bytes) any
// subset of the other writes. A link may be cut at any byte; what was under way in
// each direction arrives up to some point. A crashed node comes back with what its
// disk then holds. Not modelled here: reads that fail, corruption of data at
// rest, clocks that run at different speeds.
package sim

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
// A Script says what happens when; Plan makes one of a seed, Play plays it with all
// oracles, Shrink makes one that fails short. The fault model, what it leaves out, and
// the oracles are in docs/simulation.md.
package sim

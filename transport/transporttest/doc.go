// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package transporttest is a network in memory for tests: the nodes are names, the
// streams behave as TCP's do, and the test decides what happens to the bytes.
//
//	n := transporttest.NewNetwork(1)
//	n.Transport("alpha", "beta").Connect(ctx)  ---- Pair ----  n.Transport("beta", "alpha").Connect(ctx)
//
//	             Path("alpha", "beta"): delay, bandwidth, stall, CutAfter, bytes
//	alpha  --------------------------------------------------------------------->  beta
//	       <---------------------------------------------------------------------
//	             Path("beta", "alpha")
//
//	       Cut, Reset, Heal: both directions of the link at once
//
// What can be made to happen:
//
//   - latency and limited bandwidth, per direction: Path.SetDelay, Path.SetBandwidth
//   - a pulled cable that both ends notice: Network.Cut, or Path.CutAfter exactly n
//     bytes; until Network.Heal
//   - lost connections over a link that stays up: Network.Reset, Conn.Reset, Conn.ResetAfter
//   - a peer that no longer reads, or packets that no longer arrive, without any
//     error (half-open): Path.Stall. The buffers fill and then writers block. A Close
//     behind a stalled path is not noticed at the other end until Path.Resume.
//   - half-close: Conn.CloseWrite
//   - packets of some commands that come late: NewHolder
//
// Network.Transport pairs two nodes by appointment: when both call Connect they
// have a pair, at once and without timers, and the same seed gives the same
// resolvers. Network.Dialer has the real rules of pairing instead, crossings
// included.
//
// Without a delay no timers are used and bytes arrive during Write. With one, real
// timers are used, which testing/synctest turns into virtual ones.
package transporttest

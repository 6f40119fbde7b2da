// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package activitylog keeps the log of hot extents: the 4 MiB extents of a volume
// that may have writes in flight, so that after a crash only these have to be
// compared with the peer.
package activitylog

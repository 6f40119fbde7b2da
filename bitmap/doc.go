// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package bitmap keeps track of which 4 KiB blocks of a volume differ from a
// peer's copy, in memory, on disk and on the wire.
package bitmap

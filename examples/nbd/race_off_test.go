// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package nbd

// raceEnabled says that the race detector is on, which allocates for itself.
const raceEnabled = false

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package sim

// raceEnabled scales the random runs down under the race detector.
const raceEnabled = true

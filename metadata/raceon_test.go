// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package metadata

// underRace says that the race detector is on: long tests do less then.
const underRace = true

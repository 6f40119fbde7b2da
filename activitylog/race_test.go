// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package activitylog_test

import "flag"

// Model tests are smaller under the race detector, which finds nothing in a package
// without goroutines; -rapid.checks on the command line wins.
func init() {
	if err := flag.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
}

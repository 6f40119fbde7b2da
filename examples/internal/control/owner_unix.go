// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package control

import "syscall"

// onlyOwner makes files that come into being belong to this user alone, until the
// function that it returns is called.
func onlyOwner() (restore func()) {
	old := syscall.Umask(0o177)
	return func() { syscall.Umask(old) }
}

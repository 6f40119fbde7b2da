// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package transport

import "net"

// Elsewhere a TCP connection is watched like any other stream: see peeked.
const canPeekTCP = false

func waitReadableTCP(*net.TCPConn) error { panic("transport: canPeekTCP is false") }

func endedTCP(*net.TCPConn) error { return nil }

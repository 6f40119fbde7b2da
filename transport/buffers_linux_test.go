// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestSocketBuffers: sndbuf-size and rcvbuf-size are those of both streams, whoever dialled
// them. Linux reports twice what was asked for.
func TestSocketBuffers(t *testing.T) {
	const snd, rcv = 96 << 10, 80 << 10
	la, lb := freeAddr(t), freeAddr(t)
	mk := func(local, remote string) *TCP {
		tr, err := NewTCP(TCPConfig{Local: local, Remote: remote, SocketCheckTimeout: 100 * time.Millisecond, SndBuf: snd, RcvBuf: rcv})
		require.NoError(t, err)
		t.Cleanup(func() { tr.Close() })
		return tr
	}
	ra, rb := connectBoth(testContext(t), mk(la, lb), mk(lb, la))
	require.NoError(t, ra.err)
	require.NoError(t, rb.err)
	defer ra.pair.Close()
	defer rb.pair.Close()
	for _, c := range []net.Conn{ra.pair.Data, ra.pair.Meta, rb.pair.Data, rb.pair.Meta} {
		require.Equal(t, 2*snd, socketOption(t, c, unix.SO_SNDBUF))
		require.Equal(t, 2*rcv, socketOption(t, c, unix.SO_RCVBUF))
	}
}

func socketOption(t *testing.T, c net.Conn, option int) (n int) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option)
	}))
	require.NoError(t, err)
	return n
}

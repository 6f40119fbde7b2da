// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package transport

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const canPeekTCP = true

// peekTCP looks at a socket without waiting and without taking bytes: nil if there
// are some, EAGAIN if there are none, else why it cannot be read any more.
func peekTCP(fd uintptr) error {
	var b [1]byte
	for {
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.EOF
		default:
			return nil
		}
	}
}

// waitReadableTCP waits until c can be read, has ended or its read deadline is over.
func waitReadableTCP(c *net.TCPConn) error {
	return onSocket(c, func(err error) bool { return err != unix.EAGAIN })
}

// endedTCP returns why c cannot be read any more, or nil if it can, now or later.
func endedTCP(c *net.TCPConn) error {
	err := onSocket(c, func(error) bool { return true })
	if err == unix.EAGAIN {
		return nil
	}
	return err
}

// onSocket peeks, again whenever the socket becomes readable, until enough says so.
func onSocket(c *net.TCPConn, enough func(error) bool) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var found error
	if err := rc.Read(func(fd uintptr) bool {
		found = peekTCP(fd)
		return enough(found)
	}); err != nil {
		return err
	}
	if e, ok := found.(syscall.Errno); ok && e != unix.EAGAIN {
		return &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: e}
	}
	return found
}

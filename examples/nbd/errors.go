// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"errors"
	"fmt"
)

// Errno is an error as the protocol knows it. A Backend returns one, or an error that
// wraps one, to choose what the client sees; any other error is EIO there.
type Errno uint32

// The errors of the protocol. Their numbers are on the wire, whatever the platform.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// Error implements error.
func (e Errno) Error() string {
	switch e {
	case EPERM:
		return "operation not permitted"
	case EIO:
		return "input/output error"
	case ENOMEM:
		return "out of memory"
	case EINVAL:
		return "invalid argument"
	case ENOSPC:
		return "no space left"
	case EOVERFLOW:
		return "request is too large"
	case ENOTSUP:
		return "not supported"
	case ESHUTDOWN:
		return "the server shuts down"
	}
	return fmt.Sprintf("error %d", uint32(e))
}

// Errors of this package.
var (
	// ErrServerClosed: the server was shut down; Serve returns it.
	ErrServerClosed = errors.New("nbd: server closed")
	// ErrExport: the export cannot be as it is described, or its name is taken.
	ErrExport = errors.New("nbd: invalid export")
	// ErrUnknownExport: there is no export of this name.
	ErrUnknownExport = errors.New("nbd: unknown export")
	// ErrProtocol: the client broke the protocol; ServeConn returns it.
	ErrProtocol = errors.New("nbd: protocol error")
)

// errnoOf returns what the client is told of a backend's error.
func errnoOf(err error) Errno {
	var e Errno
	switch {
	case errors.As(err, &e) && e != 0:
		return e
	case errors.Is(err, context.Canceled):
		return ESHUTDOWN // the only one who cancels is the server
	}
	return EIO
}

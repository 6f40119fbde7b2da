// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"errors"
	"strings"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Suspension is the set of reasons for which I/O is suspended (spec: behaviour 5.10).
type Suspension uint8

// The reasons.
const (
	// SuspendedUser: by SuspendIO, until ResumeIO.
	SuspendedUser Suspension = 1 << iota
	// SuspendedNoData: no good data is reachable, and OnNoData is NoDataSuspend.
	SuspendedNoData
	// SuspendedFencing: the peer has to be fenced first (ResourceAndStonith).
	SuspendedFencing
	// SuspendedQuorum: the Arbiter has to agree first.
	SuspendedQuorum
)

// String returns the reasons as drbdsetup shows them: "no", or a list as "user,no-data".
func (s Suspension) String() string {
	var names []string
	for i, name := range []string{"user", "no-data", "fencing", "quorum"} {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "no"
	}
	return strings.Join(names, ",")
}

func suspensionOf(s *core.Snapshot) Suspension {
	var out Suspension
	for i, on := range []bool{s.SuspUser, s.SuspNoData, s.SuspFencing, s.SuspQuorum} {
		if on {
			out |= 1 << i
		}
	}
	return out
}

// ExitCode returns the code with which drbdsetup ends after an error of this package
// (spec: behaviour 2.1), for programs that take the place of DRBD's commands: scripts that
// fence a peer, for example, look at that of "outdate".
//
//	0   no error
//	5   the disk is worse than Outdated; a wait has timed out
//	10  the configuration, or the situation, does not allow it
//	11  the state change was refused
//	16  it needs a disk
//	17  it needs access to UpToDate data
//	20  anything else
func ExitCode(err error) int {
	var refused *RefusedError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrWaitTimeout):
		return 5
	case errors.As(err, &refused):
		switch refused.Code {
		case protocol.CodeNoUpToDateDisk:
			return 17
		case protocol.CodeLowerThanOutdated:
			return 5
		case protocol.CodeNoLocalDisk:
			return 16
		}
		return 11
	case errors.Is(err, ErrNoQuorum), errors.Is(err, ErrRefused):
		return 11
	case errors.Is(err, ErrConfig), errors.Is(err, ErrAttached), errors.Is(err, ErrConnected), errors.Is(err, ErrStandAlone),
		errors.Is(err, ErrDiskless), errors.Is(err, ErrDataStale), errors.Is(err, ErrShrink):
		return 10
	}
	return 20
}

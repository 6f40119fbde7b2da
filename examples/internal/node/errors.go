// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// Code is a number of DRBD's for a failed command: negative for a state change that was
// refused (protocol.Code), 101 to 170 for a configuration that cannot be (spec:
// behaviour 10.4).
type Code int

// The configuration errors that this node gives.
const (
	CodeLocalAddress     Code = 102
	CodePeerAddress      Code = 103
	CodeOpenDisk         Code = 104
	CodeOpenMetaDisk     Code = 105
	CodeDiskTooSmall     Code = 111
	CodeDiskClaimed      Code = 114
	CodeMetaIndex        Code = 116
	CodeMetaIO           Code = 118
	CodeNoMetadata       Code = 119
	CodeAuthAlg          Code = 120
	CodeDiscardOnPrimary Code = 123
	CodeAttached         Code = 124
	CodeHasNet           Code = 125
	CodeNoMinor          Code = 127
	CodeInterrupted      Code = 129
	CodeResizeInResync   Code = 130
	CodeResizeNoPrimary  Code = 131
	CodeAfterCycle       Code = 133
	CodePauseIsSet       Code = 134
	CodePauseIsClear     Code = 135
	CodeNoDisk           Code = 138
	CodeNeedProtocolC    Code = 139
	CodeIntegrityAlg     Code = 141
	CodeCSumsAlg         Code = 144
	CodeVerifyAlg        Code = 146
	CodeNotCurrent       Code = 150
	CodeStonithWithA     Code = 154
	CodeCongestionNeedsA Code = 155
	CodeUnknownResource  Code = 158
	CodeResourceInUse    Code = 159
	CodeMinorConfigured  Code = 160
	CodeMinorExists      Code = 161
	CodeInvalid          Code = 162
	CodeShrink           Code = 170
)

var codeText = map[Code]string{
	CodeLocalAddress:     "Local address(port) already in use.",
	CodePeerAddress:      "Remote address(port) already in use.",
	CodeOpenDisk:         "Can not open backing device.",
	CodeOpenMetaDisk:     "Can not open meta device.",
	CodeDiskTooSmall:     "Low.dev. smaller than requested DRBD-dev. size.",
	CodeDiskClaimed:      "Lower device is already claimed. This usually means it is mounted.",
	CodeMetaIndex:        "Lower device / meta device / index combination invalid.",
	CodeMetaIO:           "IO error(s) occurred during initial access to meta-data.",
	CodeNoMetadata:       "No valid meta-data signature found.\n\n\t==> Use 'storageserver create-md FILE' to initialize meta-data area. <==\n",
	CodeAuthAlg:          "The 'cram-hmac-alg' you specified is not known.",
	CodeAfterCycle:       "This would cause a resync-after dependency cycle",
	CodeIntegrityAlg:     "The 'data-integrity-alg' you specified is not known.",
	CodeCSumsAlg:         "CSUMSAlgNotAvail",
	CodeVerifyAlg:        "VERIFYAlgNotAvail",
	CodeStonithWithA:     "Fencing policy resource-and-stonith only with prot B or C allowed",
	CodeCongestionNeedsA: "on-congestion policy pull-ahead only with prot A allowed",
	CodeDiscardOnPrimary: "--discard-my-data not allowed when primary.",
	CodeAttached:         "Device is attached to a disk (use detach first)",
	CodeHasNet:           "Device has a net-config (use disconnect first)",
	CodeNoMinor:          "Device minor not allocated",
	CodeInterrupted:      "Interrupted by Signal",
	CodeResizeInResync:   "Resize not allowed during resync.",
	CodeResizeNoPrimary:  "Need one Primary node to resize.",
	CodePauseIsSet:       "Sync-pause flag is already set",
	CodePauseIsClear:     "Sync-pause flag is already cleared",
	CodeNoDisk:           "Device does not have a disk-config",
	CodeNeedProtocolC:    "Protocol C required",
	CodeNotCurrent:       "Can only attach to the data we lost last (see kernel log).",
	CodeUnknownResource:  "Unknown resource",
	CodeResourceInUse:    "Resource still in use (delete all minors first)",
	CodeMinorConfigured:  "Minor still configured (down it first)",
	CodeMinorExists:      "Minor or volume exists already (delete it first)",
	CodeInvalid:          "Invalid configuration request",
	CodeShrink:           "Implicit device shrinking not allowed. See kernel log.",
}

// Exit codes of drbdsetup (spec: behaviour 2.1).
const (
	ExitOK      = 0
	ExitNoDisk  = 1  // get-gi, show-gi
	ExitTimeout = 5  // wait-connect, wait-sync
	ExitConfig  = 10 // 101 to 170
	ExitState   = 11 // a state change was refused
	ExitUsage   = 20 // wrong usage, or no answer
)

// Error is a failed command, as drbdsetup reports it. Exit is never 0.
type Error struct {
	Code   Code   // 0 if DRBD has none
	Exit   int    // exit code of drbdsetup
	Text   string // DRBD's words, or ours
	Detail string // what is behind it, or empty
}

func (e *Error) Error() string {
	s := e.Text
	switch {
	case e.Code < 0:
		s = fmt.Sprintf("State change failed: (%d) %s", e.Code, e.Text)
	case e.Code > 0:
		s = fmt.Sprintf("Failure: (%d) %s", e.Code, e.Text)
	}
	if e.Detail != "" {
		s += "\nadditional info:\n" + e.Detail
	}
	return s
}

// failure returns a configuration error with what is behind it.
func failure(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Exit: ExitConfig, Text: codeText[code], Detail: fmt.Sprintf(format, args...)}
}

// usage returns an error about the command line.
func usage(format string, args ...any) *Error {
	return &Error{Exit: ExitUsage, Text: fmt.Sprintf(format, args...)}
}

// stateError returns a refused state change.
func stateError(c protocol.Code, detail string) *Error {
	e := &Error{Code: Code(c), Exit: ExitState, Text: c.String(), Detail: detail}
	switch c {
	case protocol.CodeNoUpToDateDisk:
		e.Exit = 17
	case protocol.CodeLowerThanOutdated:
		e.Exit = ExitTimeout
	case protocol.CodeNoLocalDisk:
		e.Exit = 16
	}
	return e
}

// translate turns an error of the SDK into drbdsetup's. nil stays nil.
func translate(err error) error {
	if err == nil {
		return nil
	}
	var done *Error
	if errors.As(err, &done) {
		return done
	}
	var code protocol.Code
	if errors.As(err, &code) && code < 0 {
		return stateError(code, err.Error())
	}
	for _, row := range []struct {
		is   error
		code Code
	}{
		{replica.ErrAttached, CodeAttached},
		{replica.ErrDataStale, CodeNotCurrent},
		{replica.ErrHung, CodeDiskClaimed}, // by its own requests of before
		{replica.ErrDiskTimeout, CodeMetaIO},
		{replica.ErrIO, CodeMetaIO}, // of all that is translated only an attach gives it
		{context.Canceled, CodeInterrupted},
		{replica.ErrShrink, CodeShrink},
		{replica.ErrConnected, CodeHasNet},
		{replica.ErrStandAlone, CodeInvalid},
		{metadata.ErrNoMetadata, CodeNoMetadata},
		{metadata.ErrInvalidLocation, CodeMetaIndex},
		{metadata.ErrDeviceTooSmall, CodeDiskTooSmall},
		{blockdev.ErrBusy, CodeDiskClaimed},
		{fs.ErrNotExist, CodeOpenDisk},
		{replica.ErrConfig, CodeInvalid},
	} {
		if errors.Is(err, row.is) {
			return failure(row.code, "%v", err)
		}
	}
	switch {
	case errors.Is(err, replica.ErrNoUpToDateData):
		return stateError(protocol.CodeNoUpToDateDisk, err.Error())
	case errors.Is(err, replica.ErrDiskless):
		return stateError(protocol.CodeDiskless, err.Error())
	case errors.Is(err, replica.ErrInUse):
		return stateError(protocol.CodeDeviceInUse, err.Error())
	}
	return &Error{Exit: ExitUsage, Text: err.Error()}
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"cmp"
	"errors"
	"fmt"
)

// Errors of this package. Each is wrapped in an *Error, with its place in the file.
var (
	// ErrSyntax: the text is no drbd.conf.
	ErrSyntax = errors.New("syntax error")
	// ErrInvalid: a section, an option or a value that there is not, that is
	// missing, or that there must be only one of.
	ErrInvalid = errors.New("invalid")
	// ErrUnsupported: it is valid, but blockmirror does not do it.
	ErrUnsupported = errors.New("not supported")
	// ErrNotFound: no such resource, or no such host in it.
	ErrNotFound = errors.New("not found")
	// ErrInclude: a file that is to be included cannot be read.
	ErrInclude = errors.New("include failed")
)

// Pos is a place in a file. Lines and columns count from 1; columns count bytes.
type Pos struct {
	File         string
	Line, Column int
}

// String returns "FILE:LINE:COLUMN".
func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// compare orders places by file, line and column.
func (p Pos) compare(q Pos) int {
	return cmp.Or(cmp.Compare(p.File, q.File), cmp.Compare(p.Line, q.Line), cmp.Compare(p.Column, q.Column))
}

// Error is something wrong at a place. It wraps one of the package's errors.
type Error struct {
	Pos     Pos
	Err     error
	Message string
}

// Error returns "FILE:LINE:COLUMN: message".
func (e *Error) Error() string { return fmt.Sprintf("%v: %v: %s", e.Pos, e.Err, e.Message) }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

func errorAt(pos Pos, err error, format string, args ...any) error {
	return &Error{Pos: pos, Err: err, Message: fmt.Sprintf(format, args...)}
}

// maxErrors is how many errors of a file are reported.
const maxErrors = 50

// errorList collects errors, up to maxErrors.
type errorList []error

func (l *errorList) add(err error) {
	if err != nil && len(*l) < maxErrors {
		*l = append(*l, err)
	}
}

func (l *errorList) at(pos Pos, err error, format string, args ...any) {
	l.add(errorAt(pos, err, format, args...))
}

func (l errorList) err() error { return errors.Join(l...) }

// ProblemKind says how much a Problem matters.
type ProblemKind uint8

// The kinds of problems.
const (
	// NoEffect: it makes no difference to the data, here or with DRBD: a hint, a
	// matter of the tools, or of init scripts.
	NoEffect ProblemKind = iota + 1
	// Legacy: it is of an old version; the message says what is made of it.
	Legacy
	// Unsupported: DRBD would behave differently from what happens here.
	Unsupported
	// Only9: the same, and only DRBD 9 has it.
	Only9
)

// String returns "no effect", "legacy", "not supported" or "DRBD 9 only".
func (k ProblemKind) String() string {
	switch k {
	case NoEffect:
		return "no effect"
	case Legacy:
		return "legacy"
	case Unsupported:
		return "not supported"
	case Only9:
		return "DRBD 9 only"
	}
	return fmt.Sprintf("ProblemKind(%d)", uint8(k))
}

// Problem is something in a file that is not done as it is written.
type Problem struct {
	Pos  Pos
	Kind ProblemKind
	// Option is what it is about, as "net sndbuf-size" or "connection".
	Option string
	// Message says what happens instead, or what to do.
	Message string
}

// String returns "FILE:LINE:COLUMN: OPTION: KIND: message".
func (p Problem) String() string {
	return fmt.Sprintf("%v: %s: %v: %s", p.Pos, p.Option, p.Kind, p.Message)
}

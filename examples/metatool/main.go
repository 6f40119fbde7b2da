// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Command metatool creates, shows, changes and repairs DRBD metadata. Its command
// line, output and exit status are those of drbdmeta; see the README.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
)

// Exit statuses, as the real tool has them.
const (
	exitNo            = 1  // no metadata found, unclean, or declined
	exitInconsistent  = 5  // outdate of inconsistent data
	exitInvalid       = 10 // an argument, a dump or a device does not fit
	exitUsage         = 20 // the command line is wrong, or the device cannot be opened
	exitUnimplemented = 30 // changing the stripes in place
	exitRefused       = 40 // would destroy data
)

// exitError is an error with the exit status it leads to.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func failf(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}

// tool is one run of the program.
type tool struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	interactive    bool // somebody can answer questions
	now            func() time.Time
	hostname       string
	stateDir       string // of the size files
	acceptFiles    bool   // regular files need no --force, for tests

	argv    []string // as typed, program name included
	force   bool
	minor   int // -1 = none
	version metadata.Version
	path    string
	loc     metadata.Location
	opts    options
}

func main() {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "localhost"
	}
	info, err := os.Stdin.Stat()
	t := &tool{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		interactive: err == nil && info.Mode()&os.ModeCharDevice != 0,
		now:         time.Now, hostname: hostname, stateDir: defaultStateDir,
	}
	os.Exit(t.run(os.Args))
}

// run does what argv says and returns the exit status.
func (t *tool) run(argv []string) int {
	t.argv = append([]string{filepath.Base(argv[0])}, argv[1:]...)
	err := t.dispatch(argv[1:])
	if err == nil {
		return 0
	}
	if msg := err.Error(); msg != "" {
		t.complain("%s", msg)
	}
	var status *exitError
	switch {
	case errors.As(err, &status):
		return status.code
	case errors.Is(err, metadata.ErrNoMetadata), errors.Is(err, metadata.ErrCorrupt):
		return exitNo
	}
	return exitInvalid
}

func (t *tool) dispatch(args []string) error {
	if len(args) == 0 {
		return t.usage()
	}
	name, err := t.parse(args)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	if i < 0 {
		return failf(exitUsage, "Unknown command '%s'.", name)
	}
	return commands[i].run(t)
}

func (t *tool) usage() error {
	t.say("USAGE: metatool [--force] [--state-dir DIR] MINOR|- v07|v08|v09 DEVICE LOCATION COMMAND [ARGS...]\n")
	t.say("LOCATION: internal | flex-internal | flex-external | INDEX\n\nCOMMANDS:")
	for _, c := range commands {
		t.say("%s", strings.TrimRight("  "+c.name+" "+c.args, " "))
	}
	return failf(exitUsage, "")
}

func (t *tool) say(format string, args ...any) {
	_, _ = fmt.Fprintf(t.stdout, format+"\n", args...)
}

func (t *tool) complain(format string, args ...any) {
	_, _ = fmt.Fprintf(t.stderr, format+"\n", args...)
}

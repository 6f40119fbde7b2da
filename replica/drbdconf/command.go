// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"errors"
	"fmt"
	"strings"
)

// SplitCommand splits the command line of a handler into a program and its arguments, for
// [replica.ExecHandlers]: at blanks, which quotes keep together. DRBD gives such a line to
// a shell; here no shell sees it, and what only a shell understands is an error.
func SplitCommand(line string) ([]string, error) {
	if i := strings.IndexAny(line, "|&;<>`$(){}*?\\\n"); i >= 0 {
		return nil, fmt.Errorf("%q means something to a shell, and no shell runs handlers: put the line into a script and name that", line[i])
	}
	var argv []string
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimLeft(rest, " \t") {
		if q := rest[0]; q == '"' || q == '\'' {
			word, after, closed := strings.Cut(rest[1:], string(q))
			if !closed {
				return nil, errors.New("a quote is not closed")
			}
			argv, rest = append(argv, word), after
			continue
		}
		end := strings.IndexAny(rest, " \t")
		if end < 0 {
			end = len(rest)
		}
		argv, rest = append(argv, rest[:end]), rest[end:]
	}
	if len(argv) == 0 {
		return nil, errors.New("no program is named")
	}
	return argv, nil
}

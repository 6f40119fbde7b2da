// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"strings"
)

// Command is a parsed command line, and the body of a request.
type Command struct {
	Verb    string            `json:"-"`
	Args    []string          `json:"args"`
	Options map[string]string `json:"options"`
}

// shortOptions are drbdsetup's.
var shortOptions = map[string]string{
	"-f": "force", "-o": "overwrite-data-of-peer", "-t": "wfc-timeout", "-d": "degr-wfc-timeout",
	"-w": "wait-after-sb", "-v": "verbose", "-S": "stop",
}

// ParseCommand reads a command line of drbdsetup without the program's name. Options
// may stand anywhere: --name=value, --name value, --name for yes, --no-name for no.
func ParseCommand(line []string) (*Command, error) {
	if len(line) == 0 {
		return nil, fmt.Errorf("no command given")
	}
	verb, known := Verbs()[line[0]]
	if !known {
		return nil, fmt.Errorf("'%s' is an unknown command", line[0])
	}
	c := &Command{Verb: verb.Name, Args: []string{}, Options: map[string]string{}}
	rest := line[1:]
	for len(rest) > 0 {
		arg := rest[0]
		rest = rest[1:]
		if long, ok := shortOptions[arg]; ok {
			arg = "--" + long
		}
		if !strings.HasPrefix(arg, "--") || arg == "--" {
			c.Args = append(c.Args, arg)
			continue
		}
		name, value, given := strings.Cut(arg[2:], "=")
		isBool, known := verb.Options[name]
		if !known && strings.HasPrefix(name, "no-") && verb.Options[name[3:]] && !given {
			name, value, given, isBool, known = name[3:], "no", true, true, true
		}
		switch {
		case !known:
			return nil, fmt.Errorf("%s: unrecognized option '--%s'", verb.Name, name)
		case given:
		case isBool:
			value = "yes"
			if len(rest) > 0 && (rest[0] == "yes" || rest[0] == "no") {
				value, rest = rest[0], rest[1:]
			}
		case len(rest) == 0:
			return nil, fmt.Errorf("%s: option '--%s' requires an argument", verb.Name, name)
		default:
			value, rest = rest[0], rest[1:]
		}
		c.Options[name] = value
	}
	if len(c.Args) < verb.MinArgs || len(c.Args) > verb.MaxArgs {
		return nil, fmt.Errorf("USAGE: drbdsetup %s %s", verb.Name, verb.Usage)
	}
	return c, nil
}

// Object returns what messages call the object of the command.
func (c *Command) Object() string {
	if i := Verbs()[c.Verb].Object; i >= 0 && i < len(c.Args) {
		return c.Args[i]
	}
	return c.Verb
}

func (c *Command) yes(option string) bool { return c.Options[option] == "yes" }

func (c *Command) arg(i int) string {
	if i < len(c.Args) {
		return c.Args[i]
	}
	return ""
}

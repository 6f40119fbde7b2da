// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

// DefaultSocket is where the daemon listens unless it is told otherwise.
const DefaultSocket = "/run/blockmirror.sock"

// Client talks to a daemon. Safe for concurrent use.
type Client struct{ http *http.Client }

// NewClient returns a client for the daemon behind a unix socket. It connects with the
// first request.
func NewClient(socket string) *Client {
	return &Client{&http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // one request a process
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Do has the daemon carry out a command. The error is for a daemon that does not
// answer; a command that failed is an Answer.
func (c *Client) Do(ctx context.Context, cmd *Command) (Answer, error) {
	body, err := json.Marshal(cmd)
	if err != nil {
		return Answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://daemon/v1/commands/"+cmd.Verb, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		return Answer{}, fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	var a Answer
	return a, json.NewDecoder(resp.Body).Decode(&a)
}

// Events2 copies the stream of events to w until ctx or the daemon ends.
func (c *Client) Events2(ctx context.Context, cmd *Command, w io.Writer) error {
	q := url.Values{"resource": {cmd.arg(0)}}
	for name, v := range cmd.Options {
		q.Set(name, v)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://daemon/v1/events2?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		return &node.Error{Exit: node.ExitConfig, Text: strings.TrimSpace(string(text))}
	}
	_, err = io.Copy(w, resp.Body)
	return err
}

// Main is drbdsetup: it runs one command line against the daemon behind a socket, and
// returns the exit code.
func Main(ctx context.Context, socket string, line []string, stdout, stderr io.Writer) int {
	if len(line) > 0 && slices.Contains([]string{"help", "--help", "-h"}, line[0]) {
		return help(line[1:], stdout, stderr)
	}
	cmd, err := ParseCommand(line)
	if err != nil {
		fmt.Fprintln(stderr, err)
		if len(line) == 0 {
			fmt.Fprint(stderr, usageLine, Synopsis())
		} else {
			fmt.Fprintln(stderr, "drbdsetup help lists the commands, and drbdsetup help COMMAND its options.")
		}
		return node.ExitUsage
	}
	client := NewClient(socket)
	if cmd.Verb == "events2" {
		err := client.Events2(ctx, cmd, stdout)
		return report(stderr, cmd, err)
	}
	a, err := client.Do(ctx, cmd)
	if err != nil {
		return report(stderr, cmd, err)
	}
	_, _ = io.WriteString(stdout, a.Output)
	if a.Exit == 0 {
		return 0
	}
	if node.Code(a.Code) == node.CodeNoMinor && (cmd.Verb == "role" || cmd.Verb == "state" || cmd.Verb == "cstate" || cmd.Verb == "dstate") {
		fmt.Fprintln(stdout, "Unconfigured")
	}
	fmt.Fprintf(stderr, "%s: %s\n", cmd.Object(), strings.TrimRight(a.Error, "\n"))
	return a.Exit
}

const usageLine = "USAGE: drbdsetup [--socket PATH] COMMAND ...\n"

// help lists all commands, or one with its options.
func help(line []string, stdout, stderr io.Writer) int {
	if len(line) == 0 {
		fmt.Fprint(stdout, usageLine, Synopsis())
		return 0
	}
	verb, known := Verbs()[line[0]]
	if !known {
		fmt.Fprintf(stderr, "'%s' is an unknown command\n", line[0])
		return node.ExitUsage
	}
	fmt.Fprintf(stdout, "USAGE: drbdsetup %s %s\n", verb.Name, verb.Usage)
	for _, name := range slices.Sorted(maps.Keys(verb.Options)) {
		if verb.Options[name] {
			fmt.Fprintf(stdout, "  --%s[=yes|no]\n", name)
		} else {
			fmt.Fprintf(stdout, "  --%s VALUE\n", name)
		}
	}
	return 0
}

func report(stderr io.Writer, cmd *Command, err error) int {
	if err == nil {
		return 0
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err // the request is nothing that was typed
	}
	fmt.Fprintf(stderr, "%s: %v\n", cmd.Object(), err)
	if failed, ok := err.(*node.Error); ok {
		return failed.Exit
	}
	fmt.Fprintln(stderr, "Is the daemon (storageserver) running, as this user? Where its control socket is say --socket or BLOCKMIRROR_SOCKET.")
	return node.ExitUsage
}

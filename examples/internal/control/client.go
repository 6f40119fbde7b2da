// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
	cmd, err := ParseCommand(line)
	if err != nil {
		fmt.Fprintln(stderr, err)
		if len(line) == 0 {
			fmt.Fprintf(stderr, "USAGE: drbdsetup [--socket PATH] COMMAND ...\n%s", Synopsis())
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

func report(stderr io.Writer, cmd *Command, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "%s: %v\n", cmd.Object(), err)
	if failed, ok := err.(*node.Error); ok {
		return failed.Exit
	}
	fmt.Fprintln(stderr, "Is the daemon (storageserver) running? Where its control socket is say --socket or BLOCKMIRROR_SOCKET.")
	return node.ExitUsage
}

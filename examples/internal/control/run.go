// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

// Run carries out a command and returns what drbdsetup prints. events2 is not among
// what it can do: it has no end.
func Run(ctx context.Context, n *node.Node, c *Command) (string, error) {
	minor := c.arg(0)
	switch c.Verb {
	case "new-resource":
		return "", n.NewResource(minor, c.Options)
	case "new-minor":
		return "", n.NewMinor(c.arg(0), c.arg(1), c.arg(2))
	case "del-resource":
		return "", n.DelResource(ctx, minor)
	case "del-minor":
		return "", n.DelMinor(ctx, minor)
	case "attach":
		return "", attach(ctx, n, c)
	case "detach":
		return "", n.Detach(ctx, minor, c.yes("force"))
	case "connect":
		return "", connect(ctx, n, c)
	case "disconnect":
		return "", n.Disconnect(ctx, c.Args, c.yes("force"))
	case "primary":
		return "", n.Primary(ctx, minor, c.yes("force") || c.yes("overwrite-data-of-peer"))
	case "secondary":
		return "", n.Secondary(ctx, minor)
	case "new-current-uuid":
		return "", n.NewCurrentUUID(ctx, minor, c.yes("clear-bitmap"))
	case "verify":
		return "", n.Verify(ctx, minor, node.VerifyOptions{Start: c.Options["start"], Stop: c.Options["stop"]})
	case "resize":
		return "", n.Resize(ctx, minor, node.ResizeOptions{
			Size: c.Options["size"], AssumeClean: c.yes("assume-clean"), AssumePeerHasSpace: c.yes("assume-peer-has-space"),
		})
	case "disk-options":
		o, reset := c.options()
		return "", n.ChangeDiskOptions(ctx, minor, o, reset)
	case "net-options":
		o, reset := c.options()
		return "", n.ChangeNetOptions(ctx, c.Args, o, reset)
	case "resource-options":
		o, reset := c.options()
		return "", n.ChangeResourceOptions(ctx, minor, o, reset)
	case "wait-connect", "wait-sync":
		o, err := c.waitOptions()
		if err != nil {
			return "", err
		}
		return "", n.Wait(ctx, minor, c.Verb == "wait-sync", o)
	case "up":
		return "", n.UpByName(ctx, minor)
	case "down":
		return "", n.Down(ctx, minor)
	}
	return show(ctx, n, c)
}

// show runs the commands that only show something, and those that are the SDK's alone.
func show(ctx context.Context, n *node.Node, c *Command) (string, error) {
	switch c.Verb {
	case "role", "state", "cstate", "dstate":
		return n.Line(c.Verb, c.arg(0))
	case "get-gi", "show-gi":
		return n.GI(c.arg(0), c.Verb == "show-gi")
	case "show":
		return n.Show(c.arg(0), c.yes("show-defaults"))
	case "explain":
		return n.Explain(c.arg(0))
	case "status":
		return status(n, c)
	}
	return "", n.VolumeCommand(ctx, c.Verb, c.arg(0))
}

func status(n *node.Node, c *Command) (string, error) {
	if c.yes("proc") {
		return n.ProcDRBD(), nil
	}
	list, err := n.Statuses(c.arg(0))
	if err != nil {
		return "", err
	}
	if c.yes("json") {
		out, err := json.MarshalIndent(list, "", "  ")
		return string(out) + "\n", err
	}
	if len(list) == 0 {
		return "# No currently configured DRBD found.\n", nil
	}
	var b strings.Builder
	for i := range list {
		b.WriteString(list[i].Text(c.yes("verbose"), c.yes("statistics")))
	}
	return b.String(), nil
}

func attach(ctx context.Context, n *node.Node, c *Command) error {
	switch len(c.Args) {
	case 1:
		if len(c.Options) > 0 {
			return &node.Error{Exit: node.ExitUsage, Text: "attach: options go with the disk's name"}
		}
		return n.AttachAgain(ctx, c.arg(0))
	case 4:
	default:
		return &node.Error{Exit: node.ExitUsage, Text: "USAGE: drbdsetup attach " + Verbs()["attach"].Usage}
	}
	b := node.Backing{Disk: c.arg(1), MetaDisk: c.arg(2), Index: c.arg(3)}
	switch b.Index {
	case "internal", "-3":
		b.MetaDisk, b.Index = "internal", "internal"
	case "flexible", "-2":
		b.Index = "flex-external"
	}
	if b.MetaDisk == b.Disk {
		b.MetaDisk, b.Index = "internal", "internal"
	}
	return n.Attach(ctx, c.arg(0), b, c.Options)
}

func connect(ctx context.Context, n *node.Node, c *Command) error {
	o, _ := c.options()
	delete(o, "discard-my-data")
	delete(o, "tentative")
	delete(o, "peer-name")
	variants := node.ConnectOptions{DiscardMyData: c.yes("discard-my-data"), Tentative: c.yes("tentative")}
	switch {
	case len(c.Args) == 1 && len(o) == 0:
		return n.Connect(ctx, c.arg(0), nil, variants)
	case len(c.Args) == 3:
		net := &node.Net{Local: c.arg(1), Remote: c.arg(2), PeerName: c.Options["peer-name"], Options: o}
		return n.Connect(ctx, c.arg(0), net, variants)
	}
	return &node.Error{Exit: node.ExitUsage, Text: "USAGE: drbdsetup connect " + Verbs()["connect"].Usage}
}

// options returns a copy of the options without set-defaults, and whether that was set.
func (c *Command) options() (node.Options, bool) {
	out := node.Options{}
	for k, v := range c.Options {
		if k != "set-defaults" {
			out[k] = v
		}
	}
	return out, c.yes("set-defaults")
}

func (c *Command) waitOptions() (node.WaitOptions, error) {
	o := node.WaitOptions{AfterSplitBrain: c.yes("wait-after-sb")}
	for name, to := range map[string]*time.Duration{
		"wfc-timeout": &o.Timeout, "degr-wfc-timeout": &o.DegradedTimeout, "outdated-wfc-timeout": &o.OutdatedTimeout,
	} {
		text, given := c.Options[name]
		if !given {
			continue
		}
		sec, err := strconv.Atoi(text)
		if err != nil || sec < 0 || sec > 300000 {
			return o, &node.Error{Exit: node.ExitUsage, Text: "--" + name + ": want 0 to 300000 seconds"}
		}
		*to = time.Duration(sec) * time.Second
	}
	return o, nil
}

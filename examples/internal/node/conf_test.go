// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/examples/internal/conf"
	"github.com/go-blockmirror/blockmirror/examples/internal/node"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/drbdconf"
)

// elsewhere are the options that are not among those of a replica.Config: the transport
// takes them, or the node looks at the other resources.
var elsewhere = []string{"connect-int", "socket-check-timeout", "sndbuf-size", "rcvbuf-size", "resync-after"}

// TestOptionsCount: an option that is taken changes something, or is known to change
// nothing.
func TestOptionsCount(t *testing.T) {
	for _, name := range node.DiskOptions.Names() {
		other := node.DiskOptions.Other(name)
		if other == "" {
			continue
		}
		var before, after replica.VolumeConfig
		o, err := node.DiskOptions.Check(node.Options{name: other})
		require.NoError(t, err)
		node.ApplyDisk(&before, nil)
		node.ApplyDisk(&after, o)
		same := node.DiskOptions.Inert(name) || slices.Contains(elsewhere, name)
		require.Equal(t, same, reflect.DeepEqual(before, after), "disk option %s %s", name, other)
	}
	for _, name := range node.NetOptions.Names() {
		var before, after replica.PeerConfig
		o, err := node.NetOptions.Check(node.Options{name: node.NetOptions.Other(name)})
		require.NoError(t, err)
		require.NoError(t, node.ApplyNet(&before, nil))
		require.NoError(t, node.ApplyNet(&after, o))
		same := node.NetOptions.Inert(name) || slices.Contains(elsewhere, name)
		require.Equal(t, same, reflect.DeepEqual(before, after), "net option %s", name)
	}
}

// TestConfigurations reads the samples of package drbdconf, of DRBD 0.7 to 9, through
// conf, and holds the result to what drbdconf makes of them itself.
func TestConfigurations(t *testing.T) {
	const samples = "../../../replica/drbdconf/testdata/"
	for _, row := range []struct{ file, host string }{
		{"drbd07.conf", "node-a"}, {"drbd83.conf", "alpha"}, {"drbd83-many.conf", "alpha"}, {"drbd84.conf", "alpha"},
		{"drbd84-volumes.conf", "a"}, {"drbd84-volumes.conf", "b"}, {"drbd9.conf", "alpha"}, {"drbd9-many.conf", "a"},
	} {
		t.Run(row.file+" on "+row.host, func(t *testing.T) {
			list, warnings, err := conf.Load(filepath.Join(samples, row.file), row.host)
			if row.file == "drbd9-many.conf" {
				require.ErrorContains(t, err, ":7:3: not supported: a third host") // and the other resources are there
			} else {
				require.NoError(t, err)
			}
			require.NotEmpty(t, list)
			c, err := drbdconf.Load(filepath.Join(samples, row.file))
			require.NoError(t, err)
			for _, got := range list {
				r, err := c.Resource(got.Name)
				require.NoError(t, err)
				want, err := r.Node(row.host)
				require.NoError(t, err)
				for _, p := range want.Problems {
					require.Contains(t, strings.Join(warnings, "\n"), p.Pos.String()+": "+p.Option, "nothing is ignored silently")
				}
				require.Equal(t, want.TCP.Local+" "+want.TCP.Remote+" "+want.Peer, got.Net.Local+" "+got.Net.Remote+" "+got.Net.PeerName)
				sameNet(t, want, got.Net.Options)
				require.Len(t, got.Volumes, len(want.Disks))
				for i, v := range got.Volumes {
					sameDisk(t, &want.Config.Volumes[i], v.Options)
				}
				n := node.New(node.Config{})
				require.NoError(t, n.NewResource(got.Name, got.Options))
				res, err := n.Resource(got.Name)
				require.NoError(t, err)
				require.NoError(t, res.SetHandlers(got.Handlers))
			}
		})
	}
}

func sameNet(t *testing.T, want *drbdconf.Node, o node.Options) {
	checked, err := node.NetOptions.Check(o)
	require.NoError(t, err)
	var zero, got replica.PeerConfig
	require.NoError(t, node.ApplyNet(&zero, nil))
	require.NoError(t, node.ApplyNet(&got, checked))
	peer := want.Config.Peers[0]
	peer.Name = ""
	same(t, reflect.ValueOf(peer), reflect.ValueOf(got), reflect.ValueOf(zero), "peer")
}

func sameDisk(t *testing.T, want *replica.VolumeConfig, o node.Options) {
	checked, err := node.DiskOptions.Check(o)
	require.NoError(t, err)
	v := *want
	v.ID, v.Minor, v.ResyncAfter = 0, 0, nil
	var zero, got replica.VolumeConfig
	node.ApplyDisk(&zero, nil)
	node.ApplyDisk(&got, checked)
	same(t, reflect.ValueOf(v), reflect.ValueOf(got), reflect.ValueOf(zero), "volume")
}

// same compares two structures field by field. Where drbdconf leaves a field to the SDK's
// default, the node has its own default.
func same(t *testing.T, want, got, def reflect.Value, name string) {
	if _, place := want.Interface().(metadata.Location); place {
		return // compared as Backing
	}
	if want.Kind() == reflect.Struct {
		for i := range want.NumField() {
			same(t, want.Field(i), got.Field(i), def.Field(i), name+"."+want.Type().Field(i).Name)
		}
		return
	}
	if want.IsZero() {
		want = def
	}
	if want.CanInt() && want.Int() < 0 {
		require.Negative(t, got.Int(), name) // off
		return
	}
	require.Equal(t, want.Interface(), got.Interface(), name)
}

// TestOptionsPage holds the node's tables to docs/options.md: the same options, ranges, and
// defaults, but for the speed of a resync.
func TestOptionsPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/options.md")
	require.NoError(t, err)
	ours := []string{"resync-rate", "c-fill-target", "c-min-rate"}
	section, rows := "", 0
	for line := range strings.Lines(string(page)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "## "); ok {
			section = name
		}
		table := map[string]interface {
			Default(string) string
			Values(string) string
			Names() []string
		}{"net": node.NetOptions, "disk": node.DiskOptions, "options": node.ResourceOptions}[section]
		cells := strings.Split(line, "|")
		if table == nil || len(cells) != 9 || strings.Contains(cells[1], "Option") || strings.HasPrefix(cells[1], "---") {
			continue
		}
		rows++
		name, def, values := strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2]), strings.TrimSpace(cells[3])
		require.Contains(t, table.Names(), name)
		if !slices.Contains(ours, name) && values != "text" {
			require.Equal(t, strings.TrimPrefix(def, "-"), table.Default(name), name)
		}
		if name != "protocol" && values != "text" {
			require.Equal(t, values, table.Values(name), name)
		}
	}
	require.Equal(t, len(node.NetOptions.Names())+len(node.DiskOptions.Names())+len(node.ResourceOptions.Names()), rows)
}

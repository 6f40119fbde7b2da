// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/transport"
)

// optionRow is a row of docs/options.md: an option of DRBD's (spec: behaviour 10.1 to 10.3).
type optionRow struct {
	section, name, def, values, here, online string
}

// documentedOptions reads the tables of docs/options.md.
func documentedOptions(t *testing.T) []optionRow {
	t.Helper()
	text, err := os.ReadFile("../../docs/options.md")
	require.NoError(t, err)
	var rows []optionRow
	section := ""
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "## "); ok {
			section = name
		}
		cells := strings.Split(line, "|")
		if sectionSpecs[section] == nil || len(cells) != 9 || strings.TrimSpace(cells[1]) == "Option" || strings.HasPrefix(cells[1], "---") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, optionRow{section: section, name: cells[1], def: cells[2], values: cells[3], here: cells[5], online: cells[6]})
	}
	return rows
}

// TestOptionTable: the page has every option that drbd.conf of DRBD 8.4 may have, and
// drbdconf every option of the page.
func TestOptionTable(t *testing.T) {
	rows := documentedOptions(t)
	seen := map[place]bool{}
	for _, r := range rows {
		seen[place{r.section, r.name}] = true
	}
	for _, section := range []string{"net", "disk", "options", "startup"} {
		for name, sp := range sectionSpecs[section] {
			if sp.only9 || section == "net" && name == "fencing" || name == "use-bmbv" {
				continue // use-bmbv is 8.3's, fencing in net DRBD 9's
			}
			require.True(t, seen[place{section, name}], "docs/options.md has no %s in %s", name, section)
		}
	}
	require.Len(t, seen, len(rows))
	require.Greater(t, len(rows), 55)
	for _, r := range rows {
		t.Run(r.section+" "+r.name, r.check)
	}
}

func (r optionRow) check(t *testing.T) {
	sp, ok := sectionSpecs[r.section][r.name]
	require.True(t, ok, "drbdconf does not know it")
	require.Equal(t, r.def, map[bool]string{true: "-", false: sp.def}[sp.def == ""])
	_, mapped := mappings[place{r.section, r.name}]
	require.Equal(t, r.here != "none", mapped)
	switch {
	case sp.kind == number:
		r.checkNumber(t, sp)
	case sp.kind == toggle:
		require.Equal(t, "yes, no", r.values)
		r.refused(t, "maybe", "is yes or no")
		r.counts(t, map[string]string{"yes": "no", "no": "yes"}[r.def])
	case strings.HasSuffix(r.values, " characters"):
		require.Equal(t, fmt.Sprintf("%d characters", sp.max), r.values)
		r.refused(t, strings.Repeat("x", int(sp.max)+1), fmt.Sprintf("want at most %d", sp.max))
	case r.values != "text":
		r.refused(t, "nonsense", "")
		for _, v := range strings.Split(r.values, ", ") {
			r.counts(t, v)
		}
	}
}

// checkNumber: both ends of the range are taken, what lies beyond them is not, here or in
// the field.
func (r optionRow) checkNumber(t *testing.T, sp spec) {
	require.Equal(t, fmt.Sprintf("%d..%d", sp.min, sp.max), r.values)
	want := fmt.Sprintf("want %d to %d", sp.min, sp.max)
	r.refused(t, strconv.FormatInt(sp.max+1, 10), want)
	if sp.min > 0 {
		r.refused(t, strconv.FormatInt(sp.min-1, 10), want)
	}
	least, most := max(sp.min, 1), sp.max
	if r.name == "rs-discard-granularity" {
		least = 4096 // below that, or not a power of two, it has no effect: see thin
	}
	r.counts(t, strconv.FormatInt(most, 10))
	if r.here == "none" || r.section == "startup" {
		return
	}
	top, below := r.node(t, strconv.FormatInt(most, 10)), r.node(t, strconv.FormatInt(most-1, 10))
	bottom := r.node(t, strconv.FormatInt(least, 10))
	field := r.field(t, top)
	unit := field.Int() - r.field(t, below).Int()
	if r.name == "rs-discard-granularity" {
		unit = 1
	}
	require.NoError(t, open(top), "the largest value")
	require.NoError(t, open(bottom), "the smallest value")
	field.SetInt(field.Int() + unit)
	r.namesField(t, open(top))
	low := r.field(t, bottom)
	if low.SetInt(low.Int() - 1); low.Int() > 0 && sp.min > 1 {
		r.namesField(t, open(bottom))
	}
}

// namesField: the error says which field, and what it may be.
func (r optionRow) namesField(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.ErrorContains(t, err, strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(r.here, "P."), "V."), "TCP."))
	require.ErrorContains(t, err, "want ")
}

// node is what a file with this value of the option becomes.
func (r optionRow) node(t *testing.T, value string) *Node {
	t.Helper()
	statement := fmt.Sprintf("%s { %s %q; }", r.section, r.name, value)
	switch {
	case value == "":
		statement = ""
	case r.name == "on-congestion":
		statement = fmt.Sprintf("net { protocol A; on-congestion %s; }", value)
	}
	config, err := Parse("drbd.conf", `resource r0 {
`+statement+`
on a { device /dev/drbd0; disk /dev/sda; meta-disk internal; address 192.0.2.1:7788; }
on b { device /dev/drbd0; disk /dev/sda; meta-disk internal; address 192.0.2.2:7788; }
}`)
	require.NoError(t, err)
	res, err := config.Resource("r0")
	require.NoError(t, err)
	n, err := res.Node("a")
	require.NoError(t, err)
	return n
}

// refused: the error of a value names the option, and says what is right.
func (r optionRow) refused(t *testing.T, value, says string) {
	t.Helper()
	config, err := Parse("drbd.conf", fmt.Sprintf(`resource r0 { %s { %s %q; }
on a { device /dev/drbd0; disk /dev/sda; meta-disk internal; address 192.0.2.1:7788; }
on b { device /dev/drbd0; disk /dev/sda; meta-disk internal; address 192.0.2.2:7788; } }`, r.section, r.name, value))
	if err == nil {
		res, e := config.Resource("r0")
		require.NoError(t, e)
		_, err = res.Node("a")
	}
	require.ErrorIs(t, err, ErrInvalid, value)
	require.ErrorContains(t, err, r.name)
	require.ErrorContains(t, err, says)
}

// counts: a value that is not the default changes the field of the row, or is named as
// having no effect; and it is taken while the resource runs if the page says so.
func (r optionRow) counts(t *testing.T, value string) {
	t.Helper()
	if value == r.def || r.def == "C" && value == "C" {
		return
	}
	before, after := r.node(t, ""), r.node(t, value)
	if r.here == "none" {
		require.NotEmpty(t, after.Problems)
		require.Equal(t, NoEffect, after.Problems[0].Kind, value)
		return
	}
	require.Empty(t, after.Problems, value)
	require.NotEqual(t, r.field(t, before).Interface(), r.field(t, after).Interface(), value)
	require.NoError(t, open(after))
	if r.online == "" || strings.HasPrefix(r.here, "TCP.") {
		return
	}
	err := changeOnline(t, before, after, strings.HasPrefix(r.here, "P."), r.section == "options")
	if r.online == "yes" {
		require.NoError(t, err, value)
		return
	}
	require.ErrorIs(t, err, replica.ErrConfig, value)
}

// field finds the field of the row by its name.
func (r optionRow) field(t *testing.T, n *Node) reflect.Value {
	t.Helper()
	at := reflect.ValueOf(&n.Config).Elem()
	path := strings.Split(r.here, ".")
	switch path[0] {
	case "P":
		at, path = reflect.ValueOf(&n.Config.Peers[0]).Elem(), path[1:]
	case "V":
		at, path = reflect.ValueOf(&n.Config.Volumes[0]).Elem(), path[1:]
	case "TCP":
		at, path = reflect.ValueOf(&n.TCP).Elem(), path[1:]
	case "Startup":
		at, path = reflect.ValueOf(&n.Startup).Elem(), path[1:]
	}
	for _, name := range path {
		at = at.FieldByName(name)
		require.True(t, at.IsValid(), "there is no field %s", r.here)
	}
	return at
}

// open opens the resource without its disk, and its transport.
func open(n *Node) error {
	tcp := n.TCP
	if _, err := transport.NewTCP(tcp); err != nil {
		return err
	}
	res, err := replica.Open(context.Background(), n.Config)
	if err != nil {
		return err
	}
	return res.Close()
}

// changeOnline opens a resource and gives it other options.
func changeOnline(t *testing.T, before, after *Node, peer, resource bool) error {
	t.Helper()
	if resource {
		return fmt.Errorf("%w: there is no command for it", replica.ErrConfig)
	}
	res, err := replica.Open(t.Context(), before.Config)
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Close()) }()
	if !peer {
		return res.Volume(0).Change(t.Context(), func(v *replica.VolumeConfig) { *v = after.Config.Volumes[0] })
	}
	want := after.Config.Peers[0]
	if err := res.ChangePeer(t.Context(), func(p *replica.PeerConfig) { *p = want }); err != nil {
		return err
	}
	if want.Protocol == 0 {
		want.Protocol = protocol.C
	}
	return res.ChangePeer(t.Context(), func(p *replica.PeerConfig) { require.Equal(t, want, *p, "in force") })
}

// TestPlaces: the ranges of what is no option, and stands in docs/options.md all the same.
func TestPlaces(t *testing.T) {
	const size = 1 << 40
	for stripes, good := range map[uint32]bool{1: true, 1024: true, 1025: false} {
		_, err := metadata.NewLayout(metadata.V08, metadata.Internal(), size, metadata.Geometry{ALStripes: stripes, ALStripeSize4k: 8})
		require.Equal(t, good, err == nil, "%d stripes: %v", stripes, err)
	}
	_, err := metadata.NewLayout(metadata.V08, metadata.Internal(), size, metadata.Geometry{ALStripes: 1, ALStripeSize4k: 16777216/4 + 1})
	require.Error(t, err)
	for _, text := range []string{"device /dev/drbd1048576", "address 192.0.2.1:65536", "address 192.0.2.1:0"} {
		statements := map[string]string{"device": "device /dev/drbd0", "address": "address 192.0.2.1:7788"}
		statements[strings.Fields(text)[0]] = text
		_, err := Parse("drbd.conf", fmt.Sprintf("resource r0 { on a { %s; disk /dev/sda; meta-disk internal; %s; } }", statements["device"], statements["address"]))
		require.ErrorIs(t, err, ErrInvalid, text)
	}
	require.ErrorIs(t, open(&Node{TCP: transport.TCPConfig{Local: "192.0.2.1:1", Remote: "192.0.2.2:1"},
		Config: replica.Config{Volumes: []replica.VolumeConfig{{Minor: 1 << 20}}}}), replica.ErrConfig)
}

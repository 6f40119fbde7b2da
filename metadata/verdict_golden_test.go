// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The files of testdata/verdict list what two kernels told each other about
// identifiers and states, in order. The test plays both nodes: it keeps their tuples
// by the operations of this package, compares every P_UUIDS with them, decides every
// handshake and compares with what the nodes then did.

// traceNode is one volume on one node.
type traceNode struct {
	ids       GenerationIDs // as the operations say
	known     bool          // ids has been seen once
	told      Side          // its last P_UUIDS
	toldFresh bool          // sent since the last handshake
	state     traceState    // its last P_STATE
	conn      string        // what the handshake is expected to lead to
	settled   bool          // that has been seen
}

type traceState struct {
	primary    bool
	conn       string
	disk, pdsk DiskState
}

type traceVolume struct {
	nodes    [2]*traceNode
	syncFrom GenerationIDs // the source's P_UUIDS before the resync under way
	source   int           // its node, -1 if none
}

type trace struct {
	t        *testing.T
	volumes  map[string]*traceVolume
	version  int
	features uint32
	resolver int // node that accepted the meta connection
	counts   map[string]int
}

var traceLine = regexp.MustCompile(`^(\S+) n(\d)>n(\d) \S+ \S+ +(v\d+) (P_\S+) (.*)$`)

func TestCapturedHandshakes(t *testing.T) {
	files, err := filepath.Glob("testdata/verdict/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	total := map[string]int{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			tr := &trace{t: t, volumes: map[string]*traceVolume{}, counts: total}
			tr.play(file)
		})
	}
	// What the captures are known to hold, so that a parser that skips lines fails.
	require.Equal(t, map[string]int{
		"uuids": 91, "handshake": 76, "rule 10": 46, "rule 20": 8, "rule 30": 8, "rule 50": 5, "rule 70": 5,
		"rule 90": 4, "sync uuid": 19, "resync finished": 19, "new current": 16, "skip": 15,
	}, total)
}

func (tr *trace) play(file string) {
	f, err := os.Open(file)
	require.NoError(tr.t, err)
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := sc.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		m := traceLine.FindStringSubmatch(line)
		require.NotNil(tr.t, m, "unreadable line: %s", line)
		from, _ := strconv.Atoi(m[2])
		tr.packet(from, m[4], m[5], traceFields(m[6]), line)
	}
	for _, v := range tr.volumes {
		v.checkSettled(tr.t, "end of file")
	}
}

func traceFields(s string) map[string]string {
	fields := map[string]string{}
	for _, word := range strings.Fields(s) {
		if k, v, ok := strings.Cut(word, "="); ok {
			fields[k] = v
		}
	}
	if _, rest, ok := strings.Cut(s, "agreed version "); ok {
		fields["agreed"], fields["features"], _ = strings.Cut(rest, " features ")
	}
	return fields
}

func (tr *trace) packet(from int, volume, name string, f map[string]string, line string) {
	switch name {
	case "P_INITIAL_META":
		tr.resolver = 1 - from // the other node accepted it
		for _, v := range tr.volumes {
			v.checkSettled(tr.t, "next connection")
		}
		return
	case "P_CONNECTION_FEATURES":
		if f["agreed"] != "" {
			tr.version, _ = strconv.Atoi(f["agreed"])
			features, err := strconv.ParseUint(f["features"], 0, 32)
			require.NoError(tr.t, err)
			tr.features = uint32(features)
		}
		return
	}
	v := tr.volumes[volume]
	if v == nil {
		v = &traceVolume{nodes: [2]*traceNode{{}, {}}, source: -1}
		tr.volumes[volume] = v
	}
	switch name {
	case "P_UUIDS":
		tr.uuids(v, from, f, line)
	case "P_STATE":
		tr.state(v, from, f, line)
	case "P_SYNC_UUID":
		tr.syncUUID(v, from, f, line)
	default:
		tr.t.Fatalf("unexpected packet: %s", line)
	}
}

func (tr *trace) uuid(f map[string]string, key string) UUID {
	u, err := ParseUUID(f[key])
	require.NoError(tr.t, err)
	return u
}

func (tr *trace) number(f map[string]string, key string) uint64 {
	n, err := strconv.ParseUint(f[key], 10, 64)
	require.NoError(tr.t, err)
	return n
}

// uuids checks a P_UUIDS against the tuple that the operations have led to.
func (tr *trace) uuids(v *traceVolume, from int, f map[string]string, line string) {
	n, peer := v.nodes[from], v.nodes[1-from]
	got := gi(tr.uuid(f, "cur"), tr.uuid(f, "bm"), tr.uuid(f, "h0"), tr.uuid(f, "h1"))
	primary := got.Current.IsPrimary()
	skip := UUIDFlags(tr.number(f, "flags"))&FlagSkipInitialSync != 0
	switch want := n.ids.SetPrimary(primary); {
	case !n.known:
		n.known = true
	case skip:
		require.Equal(tr.t, n.ids.SkipInitialSync(got.Current, false), got, line)
		peer.ids = peer.ids.AdoptSkipped(got, peer.state.primary)
		tr.counts["skip"]++
	case !want.Current.Equal(got.Current):
		// Bit 0 of the role that the node had before enters with C.
		require.Equal(tr.t, n.ids.SetPrimary(got.Bitmap.IsPrimary()).NewCurrent(got.Current, primary), got, line)
		tr.counts["new current"]++
	default:
		require.Equal(tr.t, want, got, line)
	}
	n.ids = got
	if skip {
		n.ids = got.DropBitmap()
		for _, n := range v.nodes {
			n.state.disk, n.state.pdsk = DiskUpToDate, DiskUpToDate
		}
	}
	n.told = Side{IDs: got, Flags: UUIDFlags(tr.number(f, "flags")), BitmapBits: tr.number(f, "dirty"), Primary: primary}
	n.toldFresh = true
	tr.counts["uuids"]++
}

func traceDisk(s string) DiskState {
	for d := range DiskState(len(diskStateNames)) {
		if d.String() == s {
			return d
		}
	}
	panic("no disk state " + s)
}

func (tr *trace) state(v *traceVolume, from int, f map[string]string, line string) {
	n, peer := v.nodes[from], v.nodes[1-from]
	s := traceState{
		primary: f["role"] == "Primary", conn: f["conn"],
		disk: traceDisk(f["disk"]), pdsk: traceDisk(f["pdsk"]),
	}
	wasInconsistent := n.state.disk == DiskInconsistent
	n.state, n.told.Primary = s, s.primary
	n.ids = n.ids.SetPrimary(s.primary)

	switch {
	case n.conn != "" && !n.settled && s.conn != "WFConnection":
		require.Equal(tr.t, n.conn, s.conn, "after the handshake: %s", line)
		n.settled = true
	case s.conn == "Connected" && s.disk == DiskUpToDate && v.source == 1-from:
		// End of a resync, told by its target.
		n.ids = n.ids.FinishAsTarget(v.syncFrom, s.primary)
		peer.ids = peer.ids.FinishAsSource()
		require.True(tr.t, n.ids.SameIdentity(peer.ids), "%v and %v: %s", n.ids, peer.ids, line)
		v.source = -1
		tr.counts["resync finished"]++
	case s.conn == "Connected" && s.primary && s.disk == DiskUpToDate && wasInconsistent && n.toldFresh:
		// Forced promotion on a live connection: the peer decides again.
		peer.told.IDs = peer.ids
		tr.decide(v, 1-from, line)
		tr.decide(v, from, line)
	}
	if s.conn == "WFConnection" && n.toldFresh && peer.toldFresh && peer.state.conn == "WFConnection" ||
		s.disk == DiskNegotiating {
		tr.decide(v, 0, line)
		tr.decide(v, 1, line)
	}
}

// decide runs the handshake of one node and notes where it has to lead.
func (tr *trace) decide(v *traceVolume, self int, line string) {
	n, peer := v.nodes[self], v.nodes[1-self]
	in := DecideInput{
		CompareInput: CompareInput{
			Own: n.told, Peer: peer.told, Resolver: self == tr.resolver,
			Version: tr.version, Features: tr.features,
		},
		OwnDisk: n.state.disk, PeerDisk: peer.state.disk,
		KeptDisk: DiskUpToDate, // all captures attach good data, fencing dont-care
	}
	d := Decide(in)
	n.settled, n.toldFresh = false, false
	switch d.Action {
	case ActConnected:
		n.conn = "Connected"
	case ActBecomeSource:
		n.conn = "WFBitMapS"
	case ActBecomeTarget:
		n.conn = "WFBitMapT"
	default:
		n.conn = "" // no further state may come on this connection
	}
	n.ids = d.Verdict.CorrectedOwn.SetPrimary(n.state.primary)
	tr.counts["handshake"]++
	tr.counts[fmt.Sprintf("rule %d", d.Verdict.Rule)]++
	require.NotEmpty(tr.t, d.Explain("r0"), line)
}

// checkSettled requires that the node did what its last handshake said.
func (v *traceVolume) checkSettled(t *testing.T, when string) {
	for i, n := range v.nodes {
		if n.conn != "" {
			require.True(t, n.settled, "%s: n%d never went to %s", when, i, n.conn)
		}
		n.conn, n.settled = "", false
	}
}

func (tr *trace) syncUUID(v *traceVolume, from int, f map[string]string, line string) {
	source, target := v.nodes[from], v.nodes[1-from]
	got := tr.uuid(f, "uuid")
	// A node that has just announced something else does not announce this.
	source.settled = source.settled || source.conn == "WFBitMapS"
	target.settled = target.settled || target.conn == "WFBitMapT"
	v.source, v.syncFrom = from, source.ids
	if !source.ids.Bitmap.reserved() {
		require.Equal(tr.t, source.ids.SyncUUID(0), got, line)
	}
	source.ids = source.ids.RotateBitmap(got)
	target.ids = target.ids.AdoptSyncUUID(got, target.state.primary)
	target.state.disk = DiskInconsistent
	tr.counts["sync uuid"]++
}

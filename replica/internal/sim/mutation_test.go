// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// mutant is a deliberate bug in the core: a text that stands there once, and what
// takes its place. The build sees it through an overlay; no file is changed.
type mutant struct {
	name, file, old, new string
}

// docs/simulation.md says how many scripts each needed. A bug that another guard makes
// harmless is none: to clear a mark before the write is on the own disk, where the
// activity log covers the block until then; to ask for blocks that an own writer of the
// sync target uses, where the stream's order and the intervals keep old data away; to
// outdate a disk that is being attached, which rule X5 refuses as well.
var mutants = []mutant{
	{"a write does not wait for the activity log", "activity.go",
		"return got == activitylog.HoldHot", "return got.Held()"},
	{"an extent leaves the log before its marks are on disk", "activity.go",
		"case len(v.al.pages) > 0:", "case false:"},
	{"a block of the activity log is not made durable", "activity.go",
		"o.PreFlush, o.FUA = true, true", "o.PreFlush, o.FUA = false, false"},
	{"the activity log is not replayed", "attach.go",
		"range res.Hot {", "range res.Hot[:0] {"},
	{"a crashed Primary forgets that it was one", "attach.go",
		"v.crashedPrimary = v.sb.Flags&(metadata.CrashedPrimary|metadata.PrimaryInd) != 0", "v.crashedPrimary = false"},
	{"a superblock is not made durable", "super.go",
		"o.PreFlush, o.FUA = true, true", "o.PreFlush, o.FUA = false, false"},
	{"PrimaryInd goes before the marks are on disk", "super.go",
		"if left {", "if false {"},
	{"PrimaryInd goes before the data is on a separate disk", "super.go",
		"if err != nil || v.sameDevice {\n\t\t\t\twrite(", "if true {\n\t\t\t\twrite("},
	{"no generation begins when the peer is lost", "after.go",
		"\tv.beginGeneration(birth)\n\tif pd.conn", "\tif pd.conn"},
	{"writes do not wait for the new generation", "super.go",
		"v.ids)\n\tv.gateSuper()", "v.ids)\n\tv.md.dirty = true"},
	{"a lost connection leaves no marks", "epoch.go",
		"r.pd.setOutOfSync(r.sector, r.size)\n", "\n"},
	{"a write without the peer leaves no mark", "write.go",
		"changed := pd.setOutOfSync(r.sector, r.size)", "changed := uint64(0)"},
	{"a write is acknowledged before it is on the own disk", "write.go",
		"r.local == partPending || r.net == partPending {\n\t\treturn", "r.net == partPending {\n\t\treturn"},
	{"no barrier between a write and what depends on it", "write.go",
		"if r.epoch != nil && r.pd.p.tx.current == r.epoch {", "if false {"},
	{"an epoch is acknowledged without a flush", "rxepoch.go",
		"if !v.cfg.DiskFlushes || !v.hasDisk() {", "if true {"},
	{"a later epoch is written before the earlier one is stable", "rxepoch.go",
		"return q.epoch == q.pd.p.rx.first && ", "return "},
	{"overlapping writes run at the same time", "intervals.go",
		"return o.from < i.to && i.from < o.to && (o.write || i.write)", "return false"},
	{"a write that the peer could not do counts as done", "peerwrite.go",
		"\tif o.Err != nil {\n\t\tq.failed = true", "\tif o.Err != nil {\n\t\tq.failed = false"},
	{"a block that is not in sync is read here", "read.go",
		"!pd.outOfSync(r.sector, r.size)", "true"},
	{"a block of a resync that could not be written counts as copied", "peerwrite.go",
		"\tif failed {\n\t\tpd.ack(", "\tif false {\n\t\tpd.ack("},
	{"a target clears marks before its data is durable", "bitmapwrite.go",
		"if !v.bmw.flushFirst || ", "if true || "},
	{"the peer's notice of a block out of sync is ignored", "bitmapxfer.go",
		"\tpd.setOutOfSync(q.Sector, q.Size)\n", "\n"},
}

var mutationsFlag = flag.Int("mutations", 0, "play every mutant of the core with up to so many seeds; 0: two of them, briefly")

var failedSeed = regexp.MustCompile(`FAIL script (\d+)`)

// TestMutants breaks the core on purpose: the simulator must find every bug.
func TestMutants(t *testing.T) {
	seeds, play := *mutationsFlag, mutants
	if seeds == 0 {
		seeds, play = 40, []mutant{mutants[3], mutants[10]}
		if testing.Short() || raceEnabled {
			play = nil
		}
	}
	for _, m := range mutants {
		src, err := os.ReadFile(filepath.Join("..", "core", m.file))
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(src), m.old), "%s: what is to be replaced must stand in %s once", m.name, m.file)
	}
	for _, m := range play {
		t.Run(m.name, func(t *testing.T) {
			seed, out := m.play(t, seeds)
			if seed == 0 {
				t.Fatalf("%d seeds did not find it\n%s", seeds, out)
			}
			_, err := Play(Mixed(uint64(seed)), false)
			require.NoError(t, err, "the core without the bug must pass the seed that finds it")
			t.Logf("found by seed %d: %s", seed, firstLine(out))
		})
	}
}

// play builds the simulator with the mutant and returns the seed that found it, or 0.
func (m mutant) play(t *testing.T, seeds int) (seed int, out string) {
	dir := t.TempDir()
	path, err := filepath.Abs(filepath.Join("..", "core", m.file))
	require.NoError(t, err)
	src, err := os.ReadFile(path)
	require.NoError(t, err)
	broken := filepath.Join(dir, m.file)
	require.NoError(t, os.WriteFile(broken, []byte(strings.Replace(string(src), m.old, m.new, 1)), 0o600))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: broken}})
	require.NoError(t, err)
	list := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(list, overlay, 0o600))
	soak := filepath.Join(dir, "soak.exe")
	text, err := exec.Command("go", "build", "-overlay", list, "-o", soak, "./cmd/soak").CombinedOutput()
	require.NoError(t, err, "%s", text)
	text, err = exec.Command(soak, "-plan", "mixed", "-seeds", fmt.Sprint(seeds), "-shrink=false").CombinedOutput()
	var exit *exec.ExitError
	if err == nil {
		return 0, string(text)
	}
	require.ErrorAs(t, err, &exit)
	if found := failedSeed.FindSubmatch(text); found != nil {
		_, err = fmt.Sscan(string(found[1]), &seed)
		require.NoError(t, err)
	}
	return seed, string(text)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line[:min(len(line), 200)]
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/stretchr/testify/require"
)

var show = flag.Bool("show", false, "TestReplay shows everything that happens")

// recordings returns the names of all recordings.
func recordings(t testing.TB) []string {
	list, err := filepath.Glob(filepath.Join("testdata", "*.jsonl.gz"))
	require.NoError(t, err)
	require.NotEmpty(t, list)
	return list
}

func load(t testing.TB, path string) Recording {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	rec, err := ReadRecording(bytes.NewReader(b))
	require.NoError(t, err)
	return rec
}

// mayBeLoose are the scenarios in which a cut races with what is under way, or writes
// with a resync or verify: not every recording of them can be played exactly. One that cannot is in
// testdata/loose, and played without comparing.
var mayBeLoose = regexp.MustCompile(`^(Random|ResyncCut|WritesWhileSyncing|Crash|PromoteTarget|NodeAhead|TwoPrimaries|Verify-)`)

// TestReplayLoose plays the recordings that cannot be compared.
func TestReplayLoose(t *testing.T) {
	list, err := filepath.Glob(filepath.Join("testdata", "loose", "*.jsonl.gz"))
	require.NoError(t, err)
	for _, path := range list {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".jsonl.gz"), func(t *testing.T) {
			require.Regexp(t, mayBeLoose, filepath.Base(path), "this one should be exact: see why it is not")
			same := func(_ int, packet []byte) [][]byte { return [][]byte{packet} }
			require.NoError(t, Play(load(t, path), Options{Mutate: same}))
		})
	}
}

// TestReplay plays every recording.
func TestReplay(t *testing.T) {
	for _, path := range recordings(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".jsonl.gz"), func(t *testing.T) {
			rec := load(t, path)
			if raceEnabled && len(rec) > 600 {
				return // one goroutine: the race detector has nothing to find
			}
			opt := Options{}
			if *show {
				opt.Trace = func(s string) { t.Log(s) }
			}
			require.NoError(t, Play(rec, opt))
		})
	}
}

// TestPlayNotices changes what was recorded, and every change is found: otherwise a
// replay would say nothing.
func TestPlayNotices(t *testing.T) {
	const name = "Detach-node.jsonl.gz"
	path := filepath.Join("testdata", name)
	find := func(rec Recording, kind Kind, ok func(e *Entry) bool) int {
		i := slices.IndexFunc(rec, func(e Entry) bool { return e.Kind == kind && ok(&e) })
		require.GreaterOrEqual(t, i, 0)
		return i
	}
	sends := func(c protocol.Command) func(e *Entry) bool {
		return func(e *Entry) bool { return commandOf(e) == c }
	}
	for what, change := range map[string]func(Recording) Recording{
		"a packet that was not sent": func(rec Recording) Recording {
			i := find(rec, Send, sends(protocol.CmdState))
			return slices.Delete(rec, i, i+1)
		},
		"other data": func(rec Recording) Recording {
			rec[find(rec, Send, sends(protocol.CmdData))].Hash++
			return rec
		},
		"another request": func(rec Recording) Recording {
			e := &rec[find(rec, Send, sends(protocol.CmdDataRequest))]
			e.Packet = slices.Clone(e.Packet)
			e.Packet[16+7]++ // the sector
			return rec
		},
		"another end of a command": func(rec Recording) Recording {
			i := find(rec, Return, func(*Entry) bool { return true })
			rec[i].Failed = true
			return rec
		},
		"another count": func(rec Recording) Recording {
			i := find(rec, Status, func(*Entry) bool { return true })
			rec[i].Volumes[0].OutOfSync++
			return rec
		},
		"another generation": func(rec Recording) Recording {
			i := find(rec, Receive, func(e *Entry) bool { return commandOf(e) == protocol.CmdUUIDs })
			rec[i].Packet = slices.Clone(rec[i].Packet)
			rec[i].Packet[16+6] ^= 0x10
			return rec
		},
		"an answer to nothing": func(rec Recording) Recording {
			i := find(rec, Receive, func(e *Entry) bool { return commandOf(e) == protocol.CmdWriteAck })
			rec[i].Packet = slices.Clone(rec[i].Packet)
			rec[i].Packet[16+7]++
			return rec
		},
	} {
		t.Run(what, func(t *testing.T) {
			require.NoError(t, Play(load(t, path), Options{}))
			require.ErrorIs(t, Play(change(load(t, path)), Options{}), ErrDiverged)
		})
	}
}

// TestContent: data in words is the data.
func TestContent(t *testing.T) {
	b := slices.Concat(make([]byte, 1024), Pattern()[4096:8192], []byte(strings.Repeat("raw!", 256)), Pattern()[:512], make([]byte, 512))
	c := Describe(b)
	require.Regexp(t, `^z2 p8\+8 r\S+ p0\+1 z1$`, string(c))
	got, err := c.Bytes(int64(len(b)))
	require.NoError(t, err)
	require.Equal(t, b, got)
	_, err = c.Bytes(int64(len(b)) - 1)
	require.ErrorIs(t, err, ErrRecording)
}

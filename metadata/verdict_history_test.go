// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
)

// judge holds two decisions against the truth.
func (p *simPair) judge(d [2]Decision) error {
	if d[0].Refusal == NotRefused && d[1].Refusal == NotRefused &&
		(d[0].Outcome != d[1].Outcome.Mirror() || d[0].FullSync != d[1].FullSync) {
		return fmt.Errorf("not mirrored: %v, %v", d[0].Sentence(), d[1].Sentence())
	}
	a, b := &p.node[0], &p.node[1]
	v := d[0].Verdict.Outcome
	apart := !a.past.has(&b.past) && !b.past.has(&a.past)
	good := a.disk > DiskInconsistent && b.disk > DiskInconsistent
	refused := d[0].Refusal != NotRefused || d[1].Refusal != NotRefused
	switch {
	case v == Contradictory && !refused && !good: // the disk states decided
		return nil
	case v == Contradictory || v == BothZero:
		return fmt.Errorf("impossible: %v", d[0].Sentence())
	case good && apart && !refused && d[0].DecidedBy != ByDiscardMyData:
		return fmt.Errorf("diverged, and accepted: %v", d[0].Sentence())
	case good && !apart && d[0].Verdict.Rule == 100 && (a.commanded || b.commanded):
		return nil // the history has but two entries
	case good && !apart && (v.IsSplitBrain() || v == Unrelated):
		return fmt.Errorf("not diverged, and refused: %v", d[0].Sentence())
	case refused:
		return nil
	case d[0].Action == ActConnected:
		if good && a.past != b.past {
			return fmt.Errorf("not the same, and no sync: %v", d[0].Sentence())
		}
		if good && a.data != b.data && a.count()+b.count() == 0 {
			return fmt.Errorf("different data, no bits, and no sync: %v", d[0].Sentence())
		}
		return nil
	}
	source, target := a, b
	if d[1].Action == ActBecomeSource {
		source, target = b, a
	}
	if good && !source.past.has(&target.past) && d[0].DecidedBy != ByDiscardMyData {
		return fmt.Errorf("the source lacks what the target has: %v", d[0].Sentence())
	}
	for i := range simBlocks {
		if source.data[i] != target.data[i] && !d[0].FullSync && !source.bits[i] && !target.bits[i] {
			return fmt.Errorf("block %d differs and will not be copied: %v", i, d[0].Sentence())
		}
	}
	return nil
}

func simScript(rnd *rand.Rand, length int) []step {
	total := 0
	for _, e := range simEvents {
		total += e.weight
	}
	script := make([]step, length)
	for k := range script {
		pick := rnd.IntN(total)
		kind := 0
		for pick >= simEvents[kind].weight {
			pick -= simEvents[kind].weight
			kind++
		}
		script[k] = step{kind: kind, node: rnd.IntN(2), arg: rnd.IntN(64)}
	}
	return script
}

func playScript(seed uint64, script []step, seen map[string]int, trace bool) (*simPair, error) {
	p := newSimPair(seed, seen)
	p.trace = trace
	for _, s := range script {
		if err := p.run(s); err != nil {
			return p, err
		}
	}
	return p, nil
}

// shrinkScript drops steps as long as some failure remains.
func shrinkScript(seed uint64, script []step) []step {
	for chunk := len(script) / 2; chunk >= 1; {
		shorter := false
		for at := 0; at+chunk <= len(script); {
			try := append(append([]step{}, script[:at]...), script[at+chunk:]...)
			if _, err := playScript(seed, try, map[string]int{}, false); err != nil {
				script, shorter = try, true
			} else {
				at += chunk
			}
		}
		if !shorter {
			chunk /= 2
		}
	}
	return script
}

// BLOCKMIRROR_GI_SEED=N replays one history, BLOCKMIRROR_GI_RUNS=N plays more.
func TestHistories(t *testing.T) {
	first, runs := uint64(1), uint64(6000)
	if testing.Short() {
		runs = 500
	}
	if s := os.Getenv("BLOCKMIRROR_GI_RUNS"); s != "" {
		runs, _ = strconv.ParseUint(s, 10, 64)
	}
	if s := os.Getenv("BLOCKMIRROR_GI_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
		runs = 1
	}
	seen := map[string]int{}
	for seed := first; seed < first+runs; seed++ {
		script := simScript(rand.New(rand.NewPCG(seed, 1)), 150)
		if _, err := playScript(seed, script, seen, false); err != nil {
			script = shrinkScript(seed, script)
			p, err := playScript(seed, script, map[string]int{}, true)
			t.Fatalf("seed %d: %v\n%s\nreplay: BLOCKMIRROR_GI_SEED=%d go test -run TestHistories ./metadata",
				seed, err, strings.Join(p.log, "\n"), seed)
		}
	}
	t.Log(seen)
	for _, what := range []string{
		"resyncs", "birth new", "birth beside", "rule 10", "rule 20", "rule 30", "rule 34", "rule 35", "rule 36", "rule 37", "rule 40",
		"rule 50", "rule 51", "rule 60", "rule 70", "rule 71", "rule 80", "rule 90", "rule 100",
	} {
		if seen[what] == 0 && runs > 1 && !testing.Short() {
			t.Errorf("no history led to %s: the model has lost something", what)
		}
	}
}

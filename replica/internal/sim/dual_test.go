// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

// register is one sector for porcupine: its state is the number of the write that
// made its content.
var register = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		a := input.(Access)
		if a.Write {
			return true, a.Content
		}
		return a.Content == state.(uint64), state
	},
	DescribeOperation: func(input, _ any) string {
		a := input.(Access)
		if a.Write {
			return fmt.Sprintf("%d writes %d", a.Node, a.Content)
		}
		return fmt.Sprintf("%d reads %d", a.Node, a.Content)
	},
}

// linearizable checks every sector's accesses: there must be one order of them all,
// on both nodes, that explains what was read.
func linearizable(history []Access) error {
	type seen struct{ sector, content uint64 }
	read := map[seen]bool{}
	for _, a := range history {
		if !a.Write && a.Ends != 0 {
			read[seen{a.Sector, a.Content}] = true
		}
	}
	sectors := map[uint64][]porcupine.Operation{}
	for _, a := range history {
		end := a.Ends
		if end == 0 {
			if !a.Write || !read[seen{a.Sector, a.Content}] {
				continue // nobody was told of it, and nobody saw it
			}
			end = math.MaxInt64
		}
		sectors[a.Sector] = append(sectors[a.Sector], porcupine.Operation{ClientId: a.Node, Input: a, Call: a.Begins, Return: end})
	}
	for s, ops := range sectors {
		if !porcupine.CheckOperations(register, ops) {
			err := fmt.Errorf("sector %d: no order of its %d accesses explains what was read", s, len(ops))
			for _, o := range ops {
				err = fmt.Errorf("%w\n%5d to %5d: %s", err, o.Call, min(o.Return, 1<<40), register.DescribeOperation(o.Input, nil))
			}
			return err
		}
	}
	return nil
}

func dualOptions(seed uint64) Options {
	o := testOptions()
	o.DiskBytes = 1 << 20
	o.Trace = false
	o.Volume.ALExtents = 67
	if seed%5 == 4 {
		o.Volume.ResyncRate = 2048 // a resync takes its time
	}
	if seed%7 == 6 {
		o.Volume.NoALUpdates = true
	}
	if seed%9 == 8 {
		o.Net.MaxVersion = 97 // no P_RETRY_WRITE
	}
	return o
}

// TestDual lets two Primaries write and read the same blocks: at the end the disks
// are equal, and every read is explained by one order of the accesses of both nodes.
func TestDual(t *testing.T) {
	if *seedFlag != 0 {
		o := dualOptions(*seedFlag)
		o.Trace = true
		d := NewDual(*seedFlag, o)
		err := d.Play(150)
		if err == nil {
			err = linearizable(d.History)
		}
		t.Logf("%s", d.Trace())
		require.NoError(t, err)
		return
	}
	n := *seedsFlag
	if n == 0 {
		n = 400
		if testing.Short() || raceEnabled {
			n = 40
		}
	}
	faults := map[string]int{}
	accesses, conflicts := 0, uint64(0)
	for seed := uint64(1); seed <= uint64(n); seed++ {
		d := NewDual(seed, dualOptions(seed))
		err := d.Play(150)
		if err == nil {
			err = linearizable(d.History)
		}
		if err != nil {
			t.Fatalf("seed %d: %v\nreplay: go test ./replica/internal/sim -run TestDual -seed %d", seed, err, seed)
		}
		for k, v := range d.Faults {
			faults[k] += v
		}
		accesses += len(d.History)
		conflicts += d.Conflicts()
	}
	require.Greater(t, conflicts, uint64(n), "the writes must meet")
	t.Logf("%d runs, %d accesses of a sector, %d conflicts on the last connection, faults %v", n, accesses, conflicts, faults)
}

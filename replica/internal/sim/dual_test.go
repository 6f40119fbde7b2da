// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

// linearizable checks every sector's accesses: there must be one order of them all,
// on both nodes, that explains what was read.
func linearizable(history []Access) error {
	sectors := map[uint64]*regHistory{}
	for _, a := range history {
		h := sectors[a.Sector]
		if h == nil {
			h = &regHistory{}
			sectors[a.Sector] = h
		}
		o := regOp{write: a.Write, value: a.Content, call: a.Begins, ret: a.Ends}
		if a.Ends == 0 {
			o.ret = never
		}
		h.ops = append(h.ops, o)
	}
	for s, h := range sectors {
		good, known := h.explained()
		if !known {
			good = porcupine.CheckOperations(h.model(), h.operations())
		}
		if !good {
			err := fmt.Errorf("sector %d: no order of its %d accesses explains what was read", s, len(h.ops))
			for _, o := range h.ops {
				err = fmt.Errorf("%w\n%5d to %5d: write %v, %d", err, o.call, min(o.ret, 1<<40), o.write, o.value)
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
	for seed := *fromFlag; seed < *fromFlag+uint64(n); seed++ {
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

// TestDualFound plays the seeds that have found something.
func TestDualFound(t *testing.T) {
	for _, seed := range []uint64{
		655,   // a write that was held while the disk was attached reached the peer alone
		697,   // a read that waited while the disk was attached did not wait for the peer's bitmap
		876,   // a write was refused by a node that had no disk, and was not marked when it had one again
		1373,  // a Primary attached its disk beside a peer without one, and began no generation
		4381,  // a read here came before a write of the peer that a read from the peer had seen, and that was held
		6072,  // a resync by command was decided anew when the peer's promotion was told
		14232, // a generation began in the middle of a handshake that had told the one before
		14822, // a write of an earlier resync cleared a mark of the next, on one node
		15337, // a read that the peer served saw a write that was gone when it crashed
		14181, // a detach waited for a write that waited for a block of the resync, which waited for the detach
		25325, // a promotion that the peer agreed to met an attach, and went on alone
		7032,  // a disk failed while it was detached, and the next one took no write of the peer
	} {
		d := NewDual(seed, dualOptions(seed))
		require.NoError(t, d.Play(150))
		require.NoError(t, linearizable(d.History))
	}
}

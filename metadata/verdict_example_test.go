// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata_test

import (
	"fmt"
	"strings"

	"github.com/go-blockmirror/blockmirror/metadata"
)

func mustIDs(s string) metadata.GenerationIDs {
	ids, err := metadata.ParseGenerationIDs(s)
	if err != nil {
		panic(err)
	}
	return ids
}

// A Primary lost its peer, wrote, and meets it again.
func ExampleCompare() {
	v := metadata.Compare(metadata.CompareInput{
		Own:     metadata.Side{IDs: mustIDs("4CDA49A977BC57E3:F0C619A42236BCAB:0:0"), BitmapBits: 14, Primary: true},
		Peer:    metadata.Side{IDs: mustIDs("F0C619A42236BCAA:0:0:0")},
		Version: 101,
	})
	fmt.Println(v.Outcome)
	fmt.Println(v.LogLine())
	fmt.Println(v.Sentence())
	// Output:
	// sync source, by bitmap
	// uuid_compare()=1 by rule 70
	// This node went on from the peer's generation and recorded what changed; the peer gets the changed blocks (rule 70).
}

// Two nodes that were both Primary while apart, as two Linux kernels reported them.
func ExampleDecide() {
	in := metadata.DecideInput{
		CompareInput: metadata.CompareInput{
			Own:     metadata.Side{IDs: mustIDs("01FD8FBDD68976BB:C29F3CC59FA3F39F:0:0"), BitmapBits: 3, Primary: true},
			Peer:    metadata.Side{IDs: mustIDs("5500EB0044989757:C29F3CC59FA3F39E:0:0"), BitmapBits: 4},
			Version: 101, Features: 0xf, Resolver: true,
		},
		OwnDisk: metadata.DiskUpToDate, PeerDisk: metadata.DiskUpToDate,
		Policies: metadata.Policies{
			AfterSB0Pri: metadata.PolicyDiscardYoungerPrimary,
			AfterSB1Pri: metadata.PolicyDisconnect,
		},
	}
	fmt.Print(metadata.Decide(in).Explain("r0"))

	in.Policies.AfterSB1Pri = metadata.PolicyConsensus
	fmt.Print("\nwith consensus:\n", metadata.Decide(in).Explain("r0"))
	// Output:
	// Split brain: both nodes went on alone from the same generation (rule 90). Next: drop to StandAlone.
	//   this node  01FD8FBDD68976BB:C29F3CC59FA3F39F:0000000000000000:0000000000000000  Primary, UpToDate, 3 blocks (12 KiB) out of sync
	//   peer       5500EB0044989757:C29F3CC59FA3F39E:0000000000000000:0000000000000000  Secondary, UpToDate, 4 blocks (16 KiB) out of sync
	//   after-sb-1pri=disconnect: undecided
	//   what would stay: undecided by discard-zero-changes, the peer's data by discard-least-changes, this node's data by discard-younger-primary, the peer's data by discard-older-primary
	//   to solve it, choose the node whose changes are to be thrown away, and on that node:
	//     drbdadm disconnect r0; drbdadm secondary r0; drbdadm connect --discard-my-data r0
	//   and on the other node, if it is StandAlone:
	//     drbdadm connect r0
	//
	// with consensus:
	// Split brain: both nodes went on alone from the same generation (rule 90); after-sb-1pri=consensus says that this node's data stays. Next: sync source, by bitmap.
	//   this node  01FD8FBDD68976BB:C29F3CC59FA3F39F:0000000000000000:0000000000000000  Primary, UpToDate, 3 blocks (12 KiB) out of sync
	//   peer       5500EB0044989757:C29F3CC59FA3F39E:0000000000000000:0000000000000000  Secondary, UpToDate, 4 blocks (16 KiB) out of sync
	//   after-sb-1pri=consensus: this node's data stays
}

// One cycle: the peer is lost, comes back, is brought up to date.
func ExampleGenerationIDs() {
	primary, secondary := mustIDs("A1:0:90:80"), mustIDs("A0:0:90:80")
	show := func(what string) {
		fmt.Printf("%-9s %s %s\n", what, short(primary), short(secondary))
	}
	show("in sync")
	primary = primary.Begin(primary.BirthOnLoss(
		metadata.DiskUpToDate, metadata.DiskUnknown, false, true, metadata.DiskUpToDate, false), 0xB0, true)
	show("lost")
	told := primary
	primary, sync := primary.BecomeSource(0)
	secondary = secondary.AdoptSyncUUID(sync, false)
	show("resync")
	primary, secondary = primary.FinishAsSource(), secondary.FinishAsTarget(told, false)
	show("in sync")
	// Output:
	// in sync   A1:0:90:80 A0:0:90:80
	// lost      B1:A1:90:80 A0:0:90:80
	// resync    B1:10000000000A1:A1:90 10000000000A0:0:90:80
	// in sync   B1:0:10000000000A1:A1 B0:0:10000000000A0:A1
}

func short(g metadata.GenerationIDs) string {
	return fmt.Sprintf("%X:%X:%X:%X", uint64(g.Current), uint64(g.Bitmap), uint64(g.History[0]), uint64(g.History[1]))
}

func ExampleDecision_Advice() {
	d := metadata.Decide(metadata.DecideInput{
		CompareInput: metadata.CompareInput{
			Own: metadata.Side{IDs: metadata.JustCreated()}, Peer: metadata.Side{IDs: metadata.JustCreated()}, Version: 101,
		},
		OwnDisk: metadata.DiskInconsistent, PeerDisk: metadata.DiskInconsistent,
	})
	fmt.Println(d.Sentence())
	fmt.Println(strings.Join(d.Advice("r0"), "\n"))
	// Output:
	// Both disks are fresh, nothing is copied: promote one node by force to make its data the good data (rule 10). Next: Connected.
	// to begin, on the node whose data are to be taken as good:
	//   drbdadm primary --force r0
}

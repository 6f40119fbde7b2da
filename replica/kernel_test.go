// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"flag"
	"runtime"
	"slices"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

var (
	kernelPage   = flag.Bool("kernel.page", false, "TestKernel writes docs/interop.md")
	kernelRecord = flag.Bool("kernel.record", false, "TestKernel records its traffic for the tests that replay it")
)

// kernelScenario is one row of the matrix.
type kernelScenario struct {
	name string
	// about says what happens, for docs/interop.md.
	about string
	run   func(*testing.T, *kernelLab)
	// only is the direction of a scenario that makes sense in one.
	only kernelDirection
	// slow ones are left out under the race detector.
	slow bool
}

// kernelScenarios in the order in which they begin; the long ones are not last.
var kernelScenarios = []kernelScenario{
	{name: "Connect", run: kernelConnect, about: "twenty connections, ten ended by either side; nothing breaks, nobody complains"},
	{name: "FullSyncToKernel", only: nodeActs, run: kernelFullSyncToKernel, about: "fresh disks; the node is forced to Primary and fills the kernel's disk"},
	{name: "FullSyncFromKernel", only: kernelActs, run: kernelFullSyncFromKernel, about: "fresh disks; the kernel is forced to Primary and fills the node's disk"},
	{name: "LateJoiner", run: kernelLateJoiner, about: "a Primary that was in use alone meets a fresh disk"},
	{name: "SkipInitialSync", run: kernelSkipInitialSync, about: "new-current-uuid --clear-bitmap on fresh disks: nothing is copied"},
	{name: "ActivityLog", run: kernelActivityLog, slow: true, about: "more extents are written to than the activity log holds; after the Primary's crash only what it held is copied"},
	{name: "WritesA", run: func(t *testing.T, lab *kernelLab) { kernelWrites(t, lab, protocol.A) }, about: "protocol A: every size to 32 KiB and some to 1 MiB at odd sectors, flushes, many at one time, discards, zeroes"},
	{name: "WritesB", run: func(t *testing.T, lab *kernelLab) { kernelWrites(t, lab, protocol.B) }, about: "protocol B: the same"},
	{name: "WritesC", run: func(t *testing.T, lab *kernelLab) { kernelWrites(t, lab, protocol.C) }, about: "protocol C: the same"},
	{name: "DiscardAndZeroes", run: kernelDiscardAndZeroes, about: "discard and write-zeroes, aligned and not"},
	{name: "Versions", run: kernelVersions, slow: true, about: "protocol 86 to 100: full sync (86, 95, 100), writes both ways, an outage"},
	{name: "Outage", run: kernelOutage, about: "ten outages with writes on the Primary, roles in turn: both sides know the same blocks to differ, only these travel"},
	{name: "WritesWhileSyncing", run: kernelWritesWhileSyncing, about: "the application writes while a full sync runs"},
	{name: "RoleSwitch", run: kernelRoleSwitch, about: "either side is Primary in turn; the other one's promotion is refused"},
	{name: "CrashOfKernelPrimary", only: kernelActs, run: kernelCrashOfKernelPrimary, about: "the kernel's power fails while it writes; with and without takeover, its activity log bounds the resync"},
	{name: "CrashOfNodePrimary", only: nodeActs, run: kernelCrashOfNodePrimary, about: "the node is killed while it writes; with and without takeover, its activity log bounds the resync"},
	{name: "CrashOfSecondary", run: kernelCrashOfSecondary, about: "the Primary goes on alone; what it writes is copied"},
	{name: "ResyncCut", run: kernelResyncCut, slow: true, about: "a full sync is cut five times at random points, and goes on where it was"},
	{name: "Invalidate", run: kernelInvalidate, about: "invalidate and invalidate-remote"},
	{name: "PauseSync", run: kernelPauseSync, about: "pause-sync and resume-sync from both sides"},
	{name: "Verify", run: kernelVerify, about: "online verify begun by either side: both find exactly the planted differences, also while the Primary writes; repair"},
	{name: "Checksums", run: kernelChecksums, about: "csums-alg: after an outage only what differs travels"},
	{name: "PromoteTarget", run: kernelPromoteTarget, slow: true, about: "the target of a resync becomes Primary before it is done"},
	{name: "DisklessNode", only: nodeActs, run: kernelDisklessNode, about: "the node without disk works on the kernel's"},
	{name: "DisklessKernel", only: kernelActs, run: kernelDisklessKernel, about: "the kernel without disk works on the node's"},
	{name: "Detach", run: kernelDetach, about: "detach and attach while connected, as Primary and as Secondary"},
	{name: "Integrity", run: kernelIntegrity, about: "data-integrity-alg: crc32c, sha1, md5, xxhash64; a bit that flips on the way is found, and nothing is lost by it"},
	{name: "Authentication", run: kernelAuthentication, about: "cram-hmac-alg with the right secret, a wrong one, and on one side only"},
	{name: "NetOptions", only: kernelActs, run: kernelNetOptions, about: "the kernel's administrator changes the protocol while connected"},
	{name: "SplitBrain", run: kernelSplitBrain, about: "both were Primary while apart: both come to the same verdict and stay StandAlone; discard-my-data on either side ends it"},
	{name: "SplitBrainPolicies", run: kernelSplitBrainPolicies, slow: true, about: "after-sb-0pri and -1pri: both sides choose the same victim, or none"},
	{name: "Volumes", run: kernelVolumes, about: "several volumes in one resource: sync, writes, outage, split brain of one of them"},
	{name: "Swap", run: kernelSwap, about: "disks change places between node and kernel, orderly or after a crash"},
	{name: "Beliefs", run: kernelBeliefs, slow: true, about: "what either side makes of a disk that either side has left: orderly, crashed or in the middle of a resync; apply-al by either tool; internal and external metadata"},
	{name: "TwoPrimaries", run: kernelTwoPrimaries, about: "allow-two-primaries: both write at one time, apart and to the same blocks; they lose each other; only one side allows it"},
	{name: "VerifyPlanted", run: kernelVerifyPlanted, about: "differences planted on both disks, at the end too: verify marks them on both sides, and they are copied when the two meet again; different verify-alg are refused"},
	{name: "NodeDiskFails", only: nodeActs, run: kernelNodeDiskFails, about: "the node's disk fails, as Primary and as Secondary"},
	{name: "KernelDiskFails", only: kernelActs, run: kernelKernelDiskFails, about: "the kernel's disk fails, as Primary and as Secondary"},
	{name: "Idle", run: kernelIdle, about: "nothing but pings for a while"},
	{name: "KernelHangs", only: kernelActs, run: kernelHangs, about: "the kernel disappears without a word, and comes back"},
	{name: "SlowKernel", only: kernelActs, run: kernelSlow, about: "the kernel does not answer in time: ko-count"},
	{name: "NodeHangs", only: nodeActs, run: kernelNodeHangs, about: "the node's disk does not answer: ko-count of the kernel"},
	{name: "Fencing", only: kernelActs, run: kernelFencing, about: "a kernel Primary with fencing outdates the node"},
	{name: "Ahead", only: kernelActs, run: kernelAhead, about: "protocol A with congestion: the kernel pulls ahead and comes back"},
	{name: "Resize", run: kernelResize, about: "the volume grows and shrinks while it is written to"},
	{name: "Change", run: kernelChange, only: nodeActs, about: "protocol, digest and resync speed change while connected"},
	{name: "NodeAhead", run: kernelNodeAhead, only: nodeActs, about: "protocol A with congestion: the node pulls ahead and comes back"},
	{name: "Refusals", run: kernelRefusals, slow: true, about: "what one side may not do in some situation the other one may not do either, with the same code"},
	{name: "Status", run: kernelStatus, about: "/proc/drbd and the node's copy of it are mirror images, after writes and an outage"},
	{name: "Random", run: kernelRandom, slow: true, about: "writes, cuts and roles in random order"},
}

// TestKernel runs a blockmirror node against the Linux kernel's DRBD. Each scenario has a
// guest for itself and begins with new metadata. There are at most two guests; later
// scenarios take them over. At the end a matrix says what worked in which direction.
func TestKernel(all *testing.T) {
	kerneldrbd.Require(all)
	if testing.Short() {
		all.Skip("boots virtual machines")
	}
	matrix := newKernelMatrix()
	all.Cleanup(func() { matrix.finish(all) })
	guests := min(2, runtime.GOMAXPROCS(0))
	idle := make(chan *kernelLab, guests)
	for range guests {
		idle <- nil // not started yet
	}
	for _, s := range slices.Concat(kernelPlays(all), kernelScenarios) {
		if replica.RaceEnabled && s.slow {
			continue
		}
		all.Run(s.name, func(t *testing.T) {
			t.Parallel()
			lab := <-idle
			t.Cleanup(func() { idle <- lab }) // after all others
			if lab == nil {
				lab = newKernelLab(t, all)
				lab.matrix = matrix
			}
			lab.row, lab.only = s.name, s.only
			t.Cleanup(func() { matrix.scenario(t, lab) })
			s.run(t, lab)
		})
	}
}

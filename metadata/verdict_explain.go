// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"strings"
)

// Sentence returns one sentence for the operator: what happens next and why.
func (d Decision) Sentence() string {
	why := strings.TrimSuffix(d.Verdict.Sentence(), ".")
	switch d.DecidedBy {
	case ByDiskStates:
		why = "One disk is inconsistent, so the better one is copied whatever the identifiers say"
	case ByPolicy:
		why += fmt.Sprintf("; %s=%v says that %v", d.ruling.option, d.ruling.policy, d.ruling.final)
	case ByDiscardMyData:
		why += "; discard-my-data says that " + d.discardMyData().String()
	}
	if d.Refusal != NotRefused && d.Refusal != RefusedByIdentifiers && d.Refusal != RefusedSplitBrain {
		why += "; refused: " + d.Refusal.String()
	}
	return fmt.Sprintf("%s. Next: %s.", why, d.next())
}

func (d Decision) next() string {
	switch d.Action {
	case ActBecomeSource, ActBecomeTarget:
		return d.Outcome.String()
	}
	return d.Action.String()
}

// Explain returns several lines for the operator: the sentence, both sides as they
// were compared, the policy that was asked and whom it would favour, and what to
// type next. resource is the name to put into the commands.
func (d Decision) Explain(resource string) string {
	var b strings.Builder
	line := func(format string, args ...any) {
		fmt.Fprintf(&b, format, args...)
		b.WriteByte('\n')
	}
	line("%s", d.Sentence())
	line("  this node  %s", describe(d.Verdict.Own, d.in.Own, d.in.OwnDisk))
	line("  peer       %s", describe(d.Verdict.Peer, d.in.Peer, d.in.PeerDisk))
	if d.Verdict.OwnChanged {
		line("  this node's identifiers are corrected to %s", d.Verdict.CorrectedOwn)
	}
	if d.Verdict.PeerChanged {
		line("  the peer's identifiers are corrected to %s", d.Verdict.CorrectedPeer)
	}
	if r := d.ruling; r.option != "" {
		line("  %s=%v: %s", r.option, r.policy, r.explain(d))
	} else if d.Verdict.Outcome == SplitBrainManual && d.Refusal == RefusedSplitBrain {
		line("  policies were not asked: that takes always-asbp")
	}
	if d.Refusal == RefusedSplitBrain {
		line("  what would stay: %s", d.prospects())
	}
	for _, s := range d.Advice(resource) {
		line("  %s", s)
	}
	return b.String()
}

// prospects says what the policies that look at the data would make of a split brain.
func (d Decision) prospects() string {
	var parts []string
	for _, p := range [...]SplitBrainPolicy{
		PolicyDiscardZeroChanges, PolicyDiscardLeastChanges, PolicyDiscardYoungerPrimary, PolicyDiscardOlderPrimary,
	} {
		parts = append(parts, fmt.Sprintf("%s by %v", after0Pri(p, d.in.CompareInput).whose(), p))
	}
	return strings.Join(parts, ", ")
}

func describe(ids GenerationIDs, s Side, disk DiskState) string {
	role := "Secondary"
	if s.Primary {
		role = "Primary"
	}
	text := fmt.Sprintf("%s  %s, %v, %d blocks (%d KiB) out of sync", ids, role, disk, s.BitmapBits, 4*s.BitmapBits)
	if s.crashed() {
		text += ", crashed as Primary"
	}
	if s.Flags&FlagDiscardMyData != 0 {
		text += ", discard-my-data"
	}
	return text
}

// explain says what the policy made of it, and what kept it from deciding.
func (r ruling) explain(d Decision) string {
	switch {
	case r.final == nobody && r.proposed != nobody:
		return fmt.Sprintf("undecided; after-sb-0pri=%v alone would say that %v, but that node is not Primary",
			d.in.Policies.AfterSB0Pri, r.proposed)
	case d.contested():
		return fmt.Sprintf("%v, but that node is told to discard it", r.final)
	case r.loser && !d.Demote:
		return fmt.Sprintf("%v, but this node is Primary and cannot be demoted now", r.final)
	case r.loser:
		return fmt.Sprintf("%v; this node is demoted for it", r.final)
	}
	return r.final.String()
}

// Advice returns what the operator can do now, one step a line, nothing if nothing
// is needed. resource is the name to put into the commands.
func (d Decision) Advice(resource string) []string {
	switch d.Refusal {
	case RefusedSplitBrain:
		return []string{
			"to solve it, choose the node whose changes are to be thrown away, and on that node:",
			"  drbdadm disconnect " + resource + "; drbdadm secondary " + resource +
				"; drbdadm connect --discard-my-data " + resource,
			"and on the other node, if it is StandAlone:",
			"  drbdadm connect " + resource,
		}
	case RefusedPrimaryTarget:
		return []string{
			"stop what uses this node's device, then:",
			"  drbdadm secondary " + resource + "; drbdadm connect " + resource,
		}
	case RefusedInconsistentSource:
		return []string{
			"bring back the node that has consistent data; failing that, on the node whose data are to be taken as good:",
			"  drbdadm primary --force " + resource,
		}
	case RefusedDryRun:
		return []string{"to do it: drbdadm connect " + resource + ", without --tentative"}
	case RefusedByIdentifiers:
		return d.adviceOnIdentifiers(resource)
	}
	if d.Verdict.Outcome == NoSync && d.Verdict.Rule == 10 && d.Action == ActConnected {
		return []string{"to begin, on the node whose data are to be taken as good:", "  drbdadm primary --force " + resource}
	}
	return nil
}

func (d Decision) adviceOnIdentifiers(resource string) []string {
	switch d.Verdict.Outcome {
	case NeedProtocol91, NeedWriteSame:
		return []string{"upgrade the older node; or overwrite one node: on it, see below",
			"  " + recreate(resource)}
	}
	return []string{"check that the two disks belong together; if one of them may be overwritten, on that node:",
		"  " + recreate(resource)}
}

func recreate(resource string) string {
	return "drbdadm down " + resource + "; drbdadm create-md " + resource + "; drbdadm up " + resource
}

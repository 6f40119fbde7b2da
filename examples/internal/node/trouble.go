// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// Trouble is a state that a resource does not leave by itself.
type Trouble uint8

// The kinds of trouble.
const (
	NoTrouble Trouble = iota
	// SplitBrain: the data of the nodes diverged, and neither connects any more.
	SplitBrain
	// Refused: the nodes refused each other for another reason.
	Refused
	// Failed: the resource stopped itself because of an internal error.
	Failed
)

// Trouble tells whether the resource needs a human.
func (r *Resource) Trouble() Trouble {
	t, _ := r.trouble()
	return t
}

func (r *Resource) trouble() (Trouble, error) {
	res := r.replica()
	if res == nil {
		return NoTrouble, nil
	}
	st := res.Status()
	switch {
	case st.Failed != nil && !errors.Is(st.Failed, replica.ErrClosed):
		return Failed, st.Failed
	case len(st.Peers) == 0 || st.Peers[0].StandAloneReason == nil || st.Peers[0].Conn != protocol.StandAlone:
		return NoTrouble, nil
	case errors.Is(st.Peers[0].StandAloneReason, replica.ErrSplitBrain):
		return SplitBrain, st.Peers[0].StandAloneReason
	}
	return Refused, st.Peers[0].StandAloneReason
}

// Advice says in plain words what is wrong with a resource, and which commands help.
type Advice struct {
	Title string   `json:"title"`
	Text  string   `json:"text"`
	Steps []Step   `json:"steps"`
	Facts []string `json:"facts"`
}

// Step is a command, and where and why it is typed.
type Step struct {
	Where   string `json:"where"`
	Command string `json:"command"`
}

// Advice returns what to do about the resource's trouble, nil if it has none.
func (r *Resource) Advice() *Advice {
	t, err := r.trouble()
	if t == NoTrouble {
		return nil
	}
	minor := 0
	if v := r.Volumes(); len(v) > 0 {
		minor = v[0].minor
	}
	a := &Advice{Facts: r.verdicts()}
	switch t {
	case SplitBrain:
		a.Title = "Split brain: the two copies of the data have gone different ways"
		a.Text = "Both nodes changed their copy while they could not see each other. Each has writes that the other one does not have, and they cannot be merged. " +
			"Look at both copies and decide which one to keep. What the other node, the victim, wrote since they parted is thrown away. " +
			"Until then both nodes keep their data and do not connect."
		a.Steps = []Step{
			{"on the victim, if it is Primary (stop its clients first)", fmt.Sprintf("drbdsetup secondary %d", minor)},
			{"on the victim, if it is not StandAlone", "drbdsetup disconnect " + r.name},
			{"on the victim", "drbdsetup connect " + r.name + " --discard-my-data"},
			{"on the node whose data is kept, if it is StandAlone", "drbdsetup connect " + r.name},
		}
	case Refused:
		a.Title = "The nodes refused each other"
		a.Text = err.Error()
		a.Steps = []Step{{"on both nodes, when the cause is removed", "drbdsetup connect " + r.name}}
	case Failed:
		a.Title = "The resource has stopped itself"
		a.Text = err.Error() + ". The data on the disk is as after a crash, which is safe."
		a.Steps = []Step{{"here", "drbdsetup down " + r.name + ", and bring it up again"}}
	}
	return a
}

// verdicts returns what the last handshake found out about each volume, a line each.
func (r *Resource) verdicts() (out []string) {
	st := r.Snapshot()
	for i := range st.Volumes {
		d := st.Volumes[i].LastVerdict
		if d == nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(d.Explain(r.name)), "\n")
		lines = lines[:max(0, len(lines)-len(d.Advice(r.name)))] // Steps has the commands
		if len(lines) > 0 {
			lines[0] = fmt.Sprintf("volume %d: %s", st.Volumes[i].ID, lines[0])
		}
		out = append(out, lines...)
	}
	return out
}

// Explain returns the advice on a resource, or on all for "all" or "", as text. It is
// empty where nothing is wrong.
func (n *Node) Explain(name string) (string, error) {
	list := n.Resources()
	if name != "" && name != "all" {
		r, err := n.Resource(name)
		if err != nil {
			return "", err
		}
		list = []*Resource{r}
	}
	var b strings.Builder
	for _, r := range list {
		a := r.Advice()
		if a == nil {
			continue
		}
		fmt.Fprintf(&b, "%s: %s\n\n%s\n\n", r.name, a.Title, a.Text)
		for i, s := range a.Steps {
			fmt.Fprintf(&b, "  %d. %s:\n       %s\n", i+1, s.Where, s.Command)
		}
		for _, f := range a.Facts {
			fmt.Fprintf(&b, "\n  %s", f)
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}

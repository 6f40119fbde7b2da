// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/stretchr/testify/require"
)

// labCommand is one that both sides have.
type labCommand struct {
	name   string
	node   func(d *duo) error
	kernel string // of drbdsetup
}

var (
	cmdPromote = labCommand{name: "promote", node: func(d *duo) error { return d.node.Promote(d.ctx) }, kernel: "primary"}
	cmdDemote  = labCommand{name: "demote", node: func(d *duo) error { return d.node.Demote(d.ctx) }, kernel: "secondary"}
	cmdInval   = labCommand{name: "invalidate", node: func(d *duo) error { return d.vol().Invalidate(d.ctx) }, kernel: "invalidate"}
	cmdInvalR  = labCommand{name: "invalidate-remote", node: func(d *duo) error { return d.vol().InvalidateRemote(d.ctx) }, kernel: "invalidate-remote"}
	cmdVerify  = labCommand{name: "verify", node: func(d *duo) error { _, err := d.vol().Verify(d.ctx); return err }, kernel: "verify"}
	cmdOutdate = labCommand{name: "outdate", node: func(d *duo) error { return d.vol().Outdate(d.ctx) }, kernel: "outdate"}
	cmdDetach  = labCommand{name: "detach", node: func(d *duo) error { return d.vol().Detach(d.ctx) }, kernel: "detach"}
	cmdResume  = labCommand{name: "resume-sync", node: func(d *duo) error { return d.vol().ResumeSync(d.ctx) }, kernel: "resume-sync"}
)

var kernelCode = regexp.MustCompile(`\((-?\d+)\)`)

// verdictOf runs a command on one side: "done", or "refused" with DRBD's code if it has one.
func (d *duo) verdictOf(c labCommand, kernel bool) string {
	d.t.Helper()
	if kernel {
		_, err := d.kernel.Command(d.ctx, d.kernel.Volumes[0], c.kernel)
		var exit *kerneldrbd.ExitError
		if err == nil {
			return "done"
		}
		require.ErrorAs(d.t, err, &exit)
		d.t.Logf("kernel %s: %v", c.name, err)
		if m := kernelCode.FindStringSubmatch(exit.Output); m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil && n < 0 {
				return fmt.Sprintf("refused (%d)", n)
			}
		}
		return "refused"
	}
	err := c.node(d)
	if err == nil {
		return "done"
	}
	d.t.Logf("node %s: %v", c.name, err)
	var code protocol.Code
	if errors.As(err, &code) {
		return fmt.Sprintf("refused (%d)", int32(code))
	}
	require.Error(d.t, err)
	return "refused"
}

// kernelRefusals: in the same situation both sides refuse the same, with the same code.
func kernelRefusals(t *testing.T, lab *kernelLab) {
	for _, test := range []struct {
		name     string
		fresh    bool
		prepare  func(d *duo, kernel bool) // of the side that is asked
		commands []labCommand
	}{
		{"Inconsistent, StandAlone", true, func(*duo, bool) {},
			[]labCommand{cmdPromote, cmdInvalR, cmdVerify, cmdResume}},
		{"UpToDate, StandAlone", false, func(*duo, bool) {},
			[]labCommand{cmdVerify, cmdInvalR, cmdResume, cmdDemote}},
		{"Outdated, StandAlone", false, func(d *duo, kernel bool) { require.Equal(d.t, "done", d.verdictOf(cmdOutdate, kernel)) },
			[]labCommand{cmdPromote, cmdOutdate, cmdInvalR}},
		{"Primary, StandAlone", false, func(d *duo, kernel bool) { require.Equal(d.t, "done", d.verdictOf(cmdPromote, kernel)) },
			[]labCommand{cmdPromote, cmdOutdate, cmdInval, cmdDetach, cmdVerify}},
		{"Secondary, WFConnection", false, func(d *duo, kernel bool) { d.seek(kernel) },
			[]labCommand{cmdInval, cmdInvalR, cmdVerify, cmdResume}},
		{"Secondary, Connected", false, func(d *duo, _ bool) { d.connect() },
			[]labCommand{cmdVerify, cmdResume, cmdOutdate}},
		{"Primary, Connected", false, func(d *duo, kernel bool) {
			d.connect()
			require.Equal(d.t, "done", d.verdictOf(cmdPromote, kernel))
		}, []labCommand{cmdOutdate, cmdInval, cmdVerify, cmdResume}},
		{"the peer is Primary", false, func(d *duo, kernel bool) {
			d.connect()
			require.Equal(d.t, "done", d.verdictOf(cmdPromote, !kernel))
		}, []labCommand{cmdPromote, cmdInvalR, cmdVerify}},
		{"the peer is Diskless", false, func(d *duo, kernel bool) {
			d.connect()
			require.Equal(d.t, "done", d.verdictOf(cmdPromote, kernel))
			require.Equal(d.t, "done", d.verdictOf(cmdDetach, !kernel))
			d.waitNode(func(st replica.VolumeStatus) bool {
				return st.State.Disk == protocol.Diskless || st.State.PeerDisk == protocol.Diskless
			})
			d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Disk == "Diskless" || m.PeerDisk == "Diskless" })
		}, []labCommand{cmdDetach, cmdInvalR}},
	} {
		t.Run(test.name, func(t *testing.T) {
			verdicts := map[bool][]string{}
			for _, kernel := range []bool{false, true} {
				d := newDuo(t, lab, duoOptions{fresh: test.fresh, mayComplain: true, mayBreak: true, net: []string{"--ping-timeout=20"}})
				test.prepare(d, kernel)
				for _, c := range test.commands {
					verdicts[kernel] = append(verdicts[kernel], c.name+" "+d.verdictOf(c, kernel))
				}
				d.leave()
			}
			require.Equal(t, verdicts[true], verdicts[false], "the kernel's verdicts and the node's")
		})
	}
}

// seek lets one side look for the other one, who is not there.
func (d *duo) seek(kernel bool) {
	d.t.Helper()
	if kernel {
		d.connectKernel()
		d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Conn == "WFConnection" })
	} else {
		d.connectNode()
		d.waitNodeConn(protocol.WFConnection)
	}
}

// leave ends both sides in a subtest that begins another duo afterwards.
func (d *duo) leave() {
	d.t.Helper()
	d.rec = nil // a recording ends with a node that runs
	d.killNode()
	_, _ = d.kernel.Command(d.ctx, d.kernel.Volumes[0], "secondary")
	require.NoError(d.t, d.kernel.Down(d.ctx))
}

// kernelStatus: what /proc/drbd says of the one side, the node's copy says of the other.
func kernelStatus(t *testing.T, lab *kernelLab) {
	d := newDuo(t, lab, duoOptions{})
	d.connect()
	d.requireSameProc()
	d.exchange()
	d.requireSameProc()
	require.NoError(t, d.kernel.Primary(d.ctx))
	d.disconnect(true)
	d.kernelWrite(0, 5<<20, 0, 7*4096, 4096)
	d.reconnect()
	d.waitSync()
	d.waitQuiet()
	d.requireSameProc()
	require.NoError(t, d.kernel.Secondary(d.ctx))
}

// requireSameProc compares /proc/drbd with the node's, which is its mirror image.
func (d *duo) requireSameProc() {
	d.t.Helper()
	d.waitKernel(func(m kerneldrbd.Minor) bool { // it may still be at what the last packet asked for
		c := m.Counters
		return c["lo"]+c["pe"]+c["ua"]+c["ap"] == 0
	})
	out, err := d.lab.guest.Run(d.ctx, "cat /proc/drbd")
	require.NoError(d.t, err)
	own := d.node.Status().String()
	d.t.Logf("kernel:\n%s\nnode:\n%s", out, own)
	k, n := kerneldrbd.ParseProc(out)[0], kerneldrbd.ParseProc(own)[0]
	require.Equal(d.t, k.State(), fmt.Sprintf("%s %s/%s %s/%s", n.Conn, n.Peer, n.Role, n.PeerDisk, n.Disk))
	require.Equal(d.t, k.Protocol, n.Protocol)
	require.Equal(d.t, k.Flags, n.Flags)
	require.Equal(d.t, k.Counters["ns"], n.Counters["nr"], "what the kernel has sent the node has received")
	require.Equal(d.t, k.Counters["nr"], n.Counters["ns"], "what the node has sent the kernel has received")
	for _, c := range []string{"dw", "lo", "pe", "ua", "ap", "oos"} {
		require.Equal(d.t, k.Counters[c], n.Counters[c], c)
	}
}

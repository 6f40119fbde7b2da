// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

func verifyOptions(alg string) Options {
	opt := testOptions()
	opt.Net.VerifyAlg = alg
	return opt
}

// verify runs one to its end.
func (s *scene) verify(n *Node, opt core.VerifyOptions) core.VerifyReport {
	s.t.Helper()
	var cmd *core.Command
	n.mustDo(s.t, "verify", func(c *core.Command) { cmd = c; n.core.Verify(c, 0, opt) })
	s.until("the other is done", func() bool { return s.st(s.other(n)).Conn == protocol.Connected })
	return *cmd.Verified
}

// refuse runs a command that must fail.
func (s *scene) refuse(n *Node, run func(*core.Command)) error {
	s.t.Helper()
	done := false
	var got error
	n.Command(run, func(err error) { done, got = true, err })
	s.until("refused", func() bool { return done })
	require.Error(s.t, got)
	return got
}

func (s *scene) other(n *Node) *Node { return s.Nodes[1-n.idx] }

// plant changes blocks behind the mirror.
func (s *scene) plant(n *Node, blocks ...int) {
	for _, b := range blocks {
		var x [sectorBytes]byte
		off := int64(b)*4096 + int64(b%8)*sectorBytes
		n.disks[0].current.read(x[:], off)
		x[b%sectorBytes] ^= 0x80
		n.disks[0].current.write(x[:], off)
	}
}

func ranges(events []core.Event) (out []core.ByteRange) {
	for _, e := range events {
		if e.Kind == core.EventOutOfSync {
			out = append(out, core.ByteRange{Off: e.Off, Len: e.Bytes})
		}
	}
	return out
}

func resynced(events []core.Event) (blocks uint64) {
	for _, e := range events {
		if e.Kind == core.EventResyncDone {
			blocks += e.Blocks
		}
	}
	return blocks
}

// TestVerifyFindsPlantedDifferences is scenario S17: whoever begins, both nodes report
// exactly what differs.
func TestVerifyFindsPlantedDifferences(t *testing.T) {
	for _, alg := range []string{"crc32c", "sha1", "xxhash64"} {
		for _, version := range []protocol.Version{88, 90, 97, 100, 101} {
			if alg != "crc32c" && version != 101 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", alg, version), func(t *testing.T) {
				opt := verifyOptions(alg)
				opt.DiskBytes, opt.Net.MaxVersion, opt.Trace = 5<<20+12345*512, version, false
				if alg == "sha1" {
					opt.DiskBytes = 16<<20 + 1<<19
				}
				s := newScene(t, opt)
				s.a.mustDo(t, "promote", func(cmd *core.Command) { s.a.core.Promote(cmd, true) })
				s.until("synced", s.bothUpToDate)
				require.Empty(t, s.verify(s.a, core.VerifyOptions{}).Ranges)
				require.Empty(t, s.verify(s.b, core.VerifyOptions{}).Ranges)
				last := int(s.a.Snapshot().Volumes[0].Size/8) - 1
				s.plant(s.b, 99, 1340, 1341, last)
				want := []core.ByteRange{{Off: 99 * 4096, Len: 4096}, {Off: 1340 * 4096, Len: 8192}, {Off: int64(last) * 4096, Len: 4096}}
				for _, n := range s.Nodes {
					s.mark()
					found := s.verify(n, core.VerifyOptions{})
					require.Equal(t, want, found.Ranges)
					require.True(t, found.Complete)
					require.EqualValues(t, 4*4096, found.Different)
					require.Equal(t, int64(s.a.Snapshot().Volumes[0].Size*512), found.To)
					for _, x := range s.Nodes {
						require.Equal(t, want, ranges(x.Events), "node %d", x.idx)
						require.Equal(t, uint64(4), s.oos(x))
						require.Zero(t, x.Snapshot().Volumes[0].Pending+x.Snapshot().Volumes[0].Unacked)
					}
					s.never(lossStates...)
				}
				s.mark()
				s.a.mustDo(t, "repair", func(cmd *core.Command) { s.a.core.Repair(cmd, 0) })
				s.until("repaired", func() bool { return resynced(s.b.Events) > 0 && s.bothUpToDate() })
				require.EqualValues(t, 4, resynced(s.a.Events))
				require.EqualValues(t, 4, resynced(s.b.Events))
				s.equal()
				s.never(lossStates...)
				require.Empty(t, s.verify(s.b, core.VerifyOptions{}).Ranges)
				require.True(t, s.a.Snapshot().Volumes[0].IDs.SameIdentity(s.b.Snapshot().Volumes[0].IDs))
			})
		}
	}
}

// TestRepairOfTwoSecondaries: a reconnect would copy nothing, Repair does; and a
// Primary's peer is not the one to begin.
func TestRepairOfTwoSecondaries(t *testing.T) {
	s := skipped(t, verifyOptions("md5"))
	s.plant(s.a, 3, 5)
	require.Len(t, s.verify(s.b, core.VerifyOptions{}).Ranges, 2)
	s.disconnect(s.a)
	s.connect(s.a, core.ConnectOptions{})
	s.until("connected", s.bothUpToDate)
	require.EqualValues(t, 2, s.oos(s.a), "spec: behaviour 6.8")
	want := bytes.Clone(s.b.disks[0].Bytes()[:1<<20])
	s.promote(s.b)
	require.ErrorIs(t, s.refuse(s.a, func(cmd *core.Command) { s.a.core.Repair(cmd, 0) }), core.ErrRefused)
	s.demote(s.b)
	s.b.mustDo(t, "repair", func(cmd *core.Command) { s.b.core.Repair(cmd, 0) })
	s.until("repaired", func() bool { return s.bothUpToDate() && s.oos(s.a)+s.oos(s.b) == 0 })
	s.equal()
	require.Equal(t, want, s.a.disks[0].Bytes()[:1<<20], "the one that began is the source")
	s.b.mustDo(t, "repair", func(cmd *core.Command) { s.b.core.Repair(cmd, 0) })
	require.True(t, s.bothUpToDate())
	// The pair is as good as before: an outage costs what was written, no more.
	s.promote(s.a)
	s.disconnect(s.b)
	s.write(s.a, 0, 1, 4096)
	s.mark()
	s.connect(s.b, core.ConnectOptions{})
	s.until("synced", s.bothUpToDate)
	require.EqualValues(t, 1, resynced(s.a.Events))
	s.never(lossStates...)
}

// TestVerifyUnderWrites: while the Primary writes, nothing is reported that does not
// differ, whichever side begins, under every protocol.
func TestVerifyUnderWrites(t *testing.T) {
	for _, wire := range []protocol.ReplicationProtocol{protocol.ProtocolA, protocol.ProtocolB, protocol.ProtocolC} {
		for who := range 2 {
			t.Run(fmt.Sprintf("%v/%d", wire, who), func(t *testing.T) {
				opt := verifyOptions("crc32c")
				opt.Net.Protocol, opt.Net.MaxBuffers, opt.Trace = wire, 64, false
				s := skipped(t, opt)
				s.promote(s.a)
				s.plant(s.b, 700)
				blocks := int(s.a.Snapshot().Volumes[0].Size / 8)
				stop := false
				writes, wrote := 0, 0
				var submit func()
				submit = func() {
					if stop {
						return
					}
					writes++
					b := s.rng.IntN(blocks - 8)
					if b <= 700 && b+8 > 700 {
						b = 701
					}
					io := &core.IO{Kind: core.IOWrite, Off: int64(b) * 4096, Buf: bytes.Repeat([]byte{byte(writes)}, 512*(1+s.rng.IntN(60)))}
					io.Len = int64(len(io.Buf))
					s.a.IO(io, func(err error) {
						require.NoError(t, err)
						wrote++
						s.after(s.delay(), submit)
					})
				}
				for range 8 {
					submit()
				}
				n := s.Nodes[who]
				for range 2 {
					before := wrote
					found := s.verify(n, core.VerifyOptions{})
					require.Equal(t, []core.ByteRange{{Off: 700 * 4096, Len: 4096}}, found.Ranges)
					require.Greater(t, wrote, before+20, "the Primary went on")
				}
				stop = true
				s.until("written", func() bool { return wrote == writes })
				s.demote(s.a)
				s.never(lossStates...)
				s.plant(s.b, 700)
				s.equal()
			})
		}
	}
}

// TestVerifyWhileRolesChange: a node that becomes Primary in the middle keeps its
// writes off the blocks that are being compared.
func TestVerifyWhileRolesChange(t *testing.T) {
	for who := range 2 {
		for round := range 4 {
			opt := verifyOptions("crc32c")
			opt.DiskBytes, opt.Trace = 32<<20, false
			s := skipped(t, opt)
			n := s.Nodes[who]
			var found *core.VerifyReport
			n.Command(func(c *core.Command) {
				n.core.Verify(c, 0, core.VerifyOptions{})
				c.User = c
			}, func(err error) {
				require.NoError(t, err)
				found = &core.VerifyReport{}
			})
			s.until("begun", func() bool { return s.st(s.a).Conn == protocol.VerifyT || s.st(s.a).Conn == protocol.VerifyS })
			s.Run(time.Duration(2*round) * time.Millisecond)
			s.promote(s.a)
			at := int64(0)
			if r := s.a.Snapshot().Volumes[0].Resync; r != nil {
				at = int64(r.Total - r.Left)
			}
			for i := range min(1100, int64(s.a.Snapshot().Volumes[0].Size/8)-at) {
				s.a.IO(&core.IO{Kind: core.IOWrite, Off: (at + i) * 4096, Len: 4096, Buf: bytes.Repeat([]byte{byte(i + 1)}, 4096)}, func(err error) { require.NoError(t, err) })
			}
			s.until("done", func() bool { return found != nil && s.bothUpToDate() })
			require.Empty(t, ranges(s.a.Events))
			require.Empty(t, ranges(s.b.Events))
			s.until("written", func() bool { return s.a.Snapshot().Volumes[0].AppPending == 0 })
			s.never(lossStates...)
			s.equal()
		}
	}
}

// TestTwoVerifiesAtOneTime: the second command is refused, and both are answered.
func TestTwoVerifiesAtOneTime(t *testing.T) {
	for who := range 2 {
		s := skipped(t, verifyOptions("crc32c"))
		var got []error
		for i := range 2 {
			n := s.Nodes[i*who]
			n.Command(func(c *core.Command) { n.core.Verify(c, 0, core.VerifyOptions{}) }, func(err error) { got = append(got, err) })
		}
		s.until("answered", func() bool { return len(got) == 2 && s.bothUpToDate() })
		refused := 0
		for _, err := range got {
			if err != nil {
				require.ErrorIs(t, err, core.ErrRefused)
				refused++
			}
		}
		require.Positive(t, refused)
		s.never(lossStates...)
	}
}

// TestVerifyNeedsTwoGoodDisks: without one the command is refused, and answered.
func TestVerifyNeedsTwoGoodDisks(t *testing.T) {
	for who := range 2 {
		s := skipped(t, verifyOptions("crc32c"))
		n := s.Nodes[who]
		s.b.mustDo(t, "detach", func(cmd *core.Command) { s.b.core.Detach(cmd, 0, false) })
		s.until("known", func() bool { return s.st(s.a).PeerDisk == protocol.Diskless })
		want := []protocol.Code{protocol.CodeNoRemoteDisk, protocol.CodeNoLocalDisk}[who]
		require.ErrorIs(t, s.refuse(n, func(c *core.Command) { n.core.Verify(c, 0, core.VerifyOptions{}) }), want)
	}
	// One that goes while the request is under way.
	for who := range 2 {
		s := skipped(t, verifyOptions("crc32c"))
		answered := false
		s.a.Command(func(c *core.Command) { s.a.core.Verify(c, 0, core.VerifyOptions{}) }, func(error) { answered = true })
		n := s.Nodes[who]
		n.mustDo(t, "detach", func(c *core.Command) { n.core.Detach(c, 0, true) })
		s.until("answered", func() bool {
			return answered && s.st(s.a).Conn == protocol.Connected && s.st(s.b).Conn == protocol.Connected
		})
		s.never(lossStates...)
	}
}

// TestVerifyRequestOvertakesNews: what VerifyS has to say about its role while its request
// is under way is not the end of the verify.
func TestVerifyRequestOvertakesNews(t *testing.T) {
	s := skipped(t, verifyOptions("crc32c"))
	s.promote(s.a)
	s.plant(s.b, 7)
	var cmd *core.Command
	done := false
	s.a.Command(func(c *core.Command) { cmd = c; s.a.core.Verify(c, 0, core.VerifyOptions{}) }, func(err error) { done = err == nil })
	s.demote(s.a)
	s.until("done", func() bool { return done && s.bothUpToDate() })
	require.Equal(t, []core.ByteRange{{Off: 7 * 4096, Len: 4096}}, cmd.Verified.Ranges)
	require.True(t, cmd.Verified.Complete)
	require.EqualValues(t, 1, s.oos(s.b))
}

// TestVerifyRange: start and stop, and where an interrupted one goes on.
func TestVerifyRange(t *testing.T) {
	for who := range 2 {
		opt := verifyOptions("sha256")
		opt.Volume.ResyncRate = 1024 // four seconds for all of it
		s := skipped(t, opt)
		n := s.Nodes[who]
		s.plant(s.a, 10, 20, 30, 900)
		found := s.verify(n, core.VerifyOptions{Start: 15 * 4096, Stop: 25*4096 - 1})
		require.Equal(t, core.VerifyReport{From: 15 * 4096, To: 25 * 4096, Different: 4096, Complete: true,
			Ranges: []core.ByteRange{{Off: 20 * 4096, Len: 4096}}}, found)
		require.EqualValues(t, 1, s.oos(s.a))
		require.EqualValues(t, 1, s.oos(s.b))

		for _, bad := range []core.VerifyOptions{{Start: -1}, {Start: 1 << 40}, {Start: 8192, Stop: 4096}, {Start: 4096, Stop: 4096}} {
			require.ErrorIs(t, s.refuse(n, func(cmd *core.Command) { n.core.Verify(cmd, 0, bad) }), core.ErrRange)
		}
		// Cut in the middle.
		var first *core.VerifyReport
		var why error
		var cmd *core.Command
		n.Command(func(c *core.Command) { cmd = c; n.core.Verify(c, 0, core.VerifyOptions{}) },
			func(err error) { first, why = cmd.Verified, err })
		s.until("half", func() bool {
			r := n.Snapshot().Volumes[0].Resync
			return r != nil && r.Left < r.Total/2
		})
		require.ErrorIs(t, s.refuse(n, func(cmd *core.Command) { n.core.Verify(cmd, 0, core.VerifyOptions{}) }), protocol.CodeResyncRunning)
		require.ErrorIs(t, s.refuse(s.other(n), func(cmd *core.Command) { s.other(n).core.Invalidate(cmd, 0) }), protocol.CodeResyncRunning)
		s.SetLink(false)
		s.until("noticed", func() bool { return first != nil && s.st(s.other(n)).Conn < protocol.Connected })
		require.ErrorIs(t, why, core.ErrConnectionLost)
		require.False(t, first.Complete)
		require.Len(t, first.Ranges, 3)
		for _, x := range s.Nodes {
			require.Zero(t, x.Snapshot().Volumes[0].Pending+x.Snapshot().Volumes[0].Unacked)
		}
		s.SetLink(true)
		s.until("again", s.bothUpToDate)
		rest := s.verify(n, core.VerifyOptions{Resume: true})
		require.Equal(t, first.To, rest.From)
		require.True(t, rest.Complete)
		require.Equal(t, []core.ByteRange{{Off: 900 * 4096, Len: 4096}}, rest.Ranges)
		require.Zero(t, s.verify(n, core.VerifyOptions{Resume: true}).From, "and then from the beginning")

		// Stopped by command.
		done := false
		n.Command(func(c *core.Command) { cmd = c; n.core.Verify(c, 0, core.VerifyOptions{}) },
			func(err error) { require.NoError(t, err); done = true })
		s.until("half", func() bool {
			r := n.Snapshot().Volumes[0].Resync
			return r != nil && r.Left < r.Total/2
		})
		require.ErrorIs(t, s.refuse(s.other(n), func(cmd *core.Command) { s.other(n).core.StopVerify(cmd, 0, cmd) }), core.ErrInterrupted)
		n.mustDo(t, "stop", func(end *core.Command) { n.core.StopVerify(end, 0, cmd) })
		s.until("stopped", func() bool { return done && s.bothUpToDate() })
		require.False(t, cmd.Verified.Complete)
		require.Equal(t, cmd.Verified.To, s.verify(n, core.VerifyOptions{Resume: true}).From)
		s.never(lossStates[0], lossStates[3])
	}
}

// TestVerifyNeedsAlgorithm: on both nodes, of the same name.
func TestVerifyNeedsAlgorithm(t *testing.T) {
	s := skipped(t, testOptions())
	require.ErrorIs(t, s.refuse(s.a, func(cmd *core.Command) { s.a.core.Verify(cmd, 0, core.VerifyOptions{}) }), protocol.CodeNoVerifyAlg)
	s.disconnect(s.a)
	s.disconnect(s.b)
	for _, c := range []struct{ verify, csums [2]string }{
		{verify: [2]string{"md5", "sha1"}}, {verify: [2]string{"", "sha1"}}, {csums: [2]string{"md5", "sha1"}}, {csums: [2]string{"sha1", ""}},
	} {
		cl := New(1, testOptions())
		for i, n := range cl.Nodes {
			cl.cfg.Net.VerifyAlg, cl.cfg.Net.CSumsAlg = c.verify[i], c.csums[i]
			n.Boot()
		}
		cl.Run(time.Second)
		for _, n := range cl.Nodes {
			n.mustDo(t, "connect", func(cmd *core.Command) { n.core.Connect(cmd, 0, core.ConnectOptions{}) })
		}
		cl.Until("refused", time.Minute, func() bool {
			a, _ := cl.Nodes[0].State(0)
			b, _ := cl.Nodes[1].State(0)
			return a.Conn == protocol.StandAlone && b.Conn == protocol.StandAlone
		})
		must(t, cl)
		refused := 0
		for _, n := range cl.Nodes {
			for _, e := range n.Events {
				if e.Kind == core.EventRefused {
					require.ErrorIs(t, e.Err, core.ErrIncompatible)
					require.ErrorIs(t, e.Err, protocol.ErrMismatch)
					refused++
				}
			}
		}
		require.NotZero(t, refused)
	}
}

// TestVerifyWithFailingDisks: a disk that cannot be read, or one sector of it, ends it,
// whatever on-io-error says, and marks what could not be compared.
func TestVerifyWithFailingDisks(t *testing.T) {
	for _, fail := range []func(*Disk){
		func(d *Disk) { d.FailReads = true },
		func(d *Disk) { d.latent[700*8] = struct{}{} },
	} {
		for _, policy := range []core.OnIOError{core.IODetach, core.IOPassOn} {
			for bad := range 2 {
				verifyFails(t, fail, policy, bad, true)
				verifyFails(t, fail, policy, bad, false)
			}
		}
	}
}

func verifyFails(t *testing.T, fail func(*Disk), policy core.OnIOError, bad int, primary bool) {
	opt := verifyOptions("crc32c")
	opt.Volume.DetachOnIO = policy
	s := skipped(t, opt)
	if primary {
		s.promote(s.a)
	}
	fail(s.Nodes[bad].disks[0])
	var cmd *core.Command
	done := false
	s.a.Command(func(c *core.Command) { cmd = c; s.a.core.Verify(c, 0, core.VerifyOptions{}) }, func(err error) {
		done = true
		require.Error(t, err)
	})
	s.until("ended", func() bool {
		return done && s.st(s.a).Conn == protocol.Connected && s.st(s.b).Conn == protocol.Connected
	})
	require.False(t, cmd.Verified.Complete)
	s.until("nothing is pending", s.nothingPending)
	want := protocol.Diskless
	if policy == core.IOPassOn {
		want = protocol.Inconsistent
	}
	s.until("the disk's state is known", func() bool {
		return s.st(s.Nodes[bad]).Disk == want && s.st(s.Nodes[1-bad]).PeerDisk == want
	})
	if primary {
		s.write(s.a, 4096, 1, 4096)
		require.Equal(t, bytes.Repeat([]byte{1}, 4096), s.read(s.a, 4096, 4096))
	}
	s.never(lossStates...)
}

// TestVerifyGivesWay: to a detach, a demotion, a disconnect, a suspension, on either side.
func TestVerifyGivesWay(t *testing.T) {
	for who := range 2 {
		for name, run := range map[string]func(*Node, *core.Command){
			"detach":     func(n *Node, c *core.Command) { n.core.Detach(c, 0, false) },
			"disconnect": func(n *Node, c *core.Command) { n.core.Disconnect(c, 0, false) },
			"shutdown":   func(n *Node, c *core.Command) { n.core.Shutdown(c) },
			"suspend":    func(n *Node, c *core.Command) { n.core.SetSuspended(c, true) },
			"demote":     func(n *Node, c *core.Command) { n.core.Demote(c) },
		} {
			opt := verifyOptions("crc32c")
			opt.DiskBytes, opt.Trace, opt.Net.MaxBuffers = 32<<20, false, 512
			s := skipped(t, opt)
			s.promote(s.a)
			s.write(s.a, 0, 1, 65536)
			var cmd *core.Command
			ended := false
			s.a.Command(func(c *core.Command) { cmd = c; s.a.core.Verify(c, 0, core.VerifyOptions{}) }, func(error) { ended = true })
			s.until("running", func() bool { return s.st(s.b).Conn == protocol.VerifyT })
			s.Run(5 * time.Millisecond)
			n := s.Nodes[who]
			n.mustDo(t, name, func(c *core.Command) { run(n, c) })
			s.until("ended", func() bool { return ended })
			mayGoOn := name == "suspend" || name == "demote"
			require.Equal(t, mayGoOn, cmd.Verified.Complete, name)
			s.never(lossStates...)
		}
	}
}

// TestChecksumResync is scenario S12: what was rewritten identically does not travel.
func TestChecksumResync(t *testing.T) {
	for _, alg := range []string{"md5", "xxhash64"} {
		for _, version := range []protocol.Version{88, 89, 95, 96, 101} {
			t.Run(fmt.Sprintf("%s/%d", alg, version), func(t *testing.T) {
				opt := testOptions()
				opt.DiskBytes, opt.Net.CSumsAlg, opt.Net.MaxVersion = 12<<20, alg, version
				s := newScene(t, opt)
				s.a.mustDo(t, "promote", func(cmd *core.Command) { s.a.core.Promote(cmd, true) })
				s.until("synced", s.bothUpToDate)
				n, o := s.a, s.b
				for round := range 2 {
					s.disconnect(o)
					fill := byte(round*16 + 1)
					for off := range 8 {
						data := bytes.Clone(n.disks[0].Bytes()[off<<20 : (off+1)<<20])
						if off == 3 {
							copy(data[40960:], bytes.Repeat([]byte{fill}, 65536))
						}
						require.NoError(t, s.io(n, &core.IO{Kind: core.IOWrite, Off: int64(off) << 20, Buf: data}))
					}
					s.mark()
					s.connect(o, core.ConnectOptions{})
					s.until("running", func() bool { return s.st(o).Conn == protocol.SyncTarget })
					s.until("half", func() bool { return s.oos(o) < 1024 || s.bothUpToDate() })
					if !s.bothUpToDate() {
						s.SetLink(false)
						s.until("cut", func() bool { return s.st(o).Conn < protocol.Connected && s.st(n).Conn < protocol.Connected })
						s.SetLink(true)
					}
					s.until("synced", s.bothUpToDate)
					s.equal()
					moved := o.Snapshot().Volumes[0].Received
					if version >= 89 {
						require.LessOrEqual(t, moved, uint64(96), "KiB that travelled since the reconnect")
					} else {
						require.GreaterOrEqual(t, moved, uint64(2048))
					}
					s.demote(n)
					n, o = o, n
					s.promote(n)
				}
			})
		}
	}
}

// TestChecksumResyncUnderWrites: the disks are equal afterwards, whoever is Primary.
func TestChecksumResyncUnderWrites(t *testing.T) {
	for seed := range uint64(6) {
		opt := testOptions()
		opt.Net.CSumsAlg, opt.Net.MaxBuffers = "md5", 64
		opt.Volume.ResyncRate = 8 << 10
		s := skipped(t, opt)
		for range seed {
			s.rng.Uint64()
		}
		s.promote(s.a)
		s.mark()
		s.b.mustDo(t, "invalidate", func(cmd *core.Command) { s.b.core.Invalidate(cmd, 0) })
		if seed%2 == 1 {
			s.until("running", func() bool { return s.st(s.b).Conn == protocol.SyncTarget })
			s.demote(s.a)
			s.promote(s.b)
		}
		n := s.Nodes[seed%2]
		for i := 0; !s.bothUpToDate(); i++ {
			s.write(n, int64(s.rng.IntN(900))*4096+int64(s.rng.IntN(8))*512, byte(i), 512*(1+s.rng.IntN(40)))
		}
		s.demote(n)
		s.equal()
		s.never(lossStates...)
	}
}

// TestChecksumsAfterCrashOnly: only what a crashed Primary's activity log has marked is
// compared, everything else is copied.
func TestChecksumsAfterCrashOnly(t *testing.T) {
	opt := testOptions()
	opt.Net.CSumsAlg, opt.Net.CSumsAfterCrashOnly = "md5", true
	s := skipped(t, opt)
	s.promote(s.a)
	s.disconnect(s.b)
	s.write(s.a, 0, 0, 1<<20)
	s.connect(s.b, core.ConnectOptions{})
	s.until("synced", s.bothUpToDate)
	require.EqualValues(t, 1024, s.b.Snapshot().Volumes[0].Received, "KiB")
	s.a.Crash(true)
	s.a.Boot()
	s.Run(time.Second)
	s.connect(s.a, core.ConnectOptions{})
	s.until("synced", s.bothUpToDate)
	s.equal()
	moved := s.a.Snapshot().Volumes[0].Received + s.b.Snapshot().Volumes[0].Received
	require.Zero(t, moved)
}

// TestThinResync: holes stay holes.
func TestThinResync(t *testing.T) {
	for _, thin := range []uint32{0, 65536, 1 << 20} {
		opt := testOptions()
		opt.Volume.ThinBytes = thin
		opt.DiskBytes = 8 << 20
		s := skipped(t, opt)
		s.promote(s.a)
		s.disconnect(s.b)
		s.b.disks[0].current.write(bytes.Repeat([]byte{0xaa}, 4<<20), 0)
		s.write(s.a, 1<<20+300*1024, 7, 100*1024)
		s.disconnect(s.a)
		s.a.mustDo(t, "invalidate-remote", func(cmd *core.Command) { s.a.core.InvalidateRemote(cmd, 0) })
		s.connect(s.a, core.ConnectOptions{})
		s.connect(s.b, core.ConnectOptions{})
		s.until("synced", s.bothUpToDate)
		s.equal()
		moved := s.b.Snapshot().Volumes[0].Received
		switch thin {
		case 0:
			require.Greater(t, moved, uint64(7<<10))
		case 65536:
			require.LessOrEqual(t, moved, uint64(64*3+64), "KiB") // and the end of the device, no whole granule
		default:
			require.LessOrEqual(t, moved, uint64(2048), "KiB")
		}
		s.never(lossStates...)
	}
}

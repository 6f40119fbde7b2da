// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// writtenOnce is two nodes in sync, a the Primary, with a write to a block: its extent is
// in the activity log from then on.
func writtenOnce(t *testing.T, opt Options) *scene {
	s := skipped(t, opt)
	s.promote(s.a)
	s.write(s.a, 4096, 1, 4096)
	s.Run(time.Second)
	return s
}

// TestPassOnAndCrash: with on-io-error pass-on a write that only the peer has is not
// acknowledged before the metadata says that the own disk is not good any more. Else the
// Primary, after a crash, would be the source of a resync without that write.
func TestPassOnAndCrash(t *testing.T) {
	opt := testOptions()
	opt.External, opt.Volume.DetachOnIO = true, core.IOPassOn
	s := writtenOnce(t, opt)
	s.a.metas[0].Frozen, s.a.disks[0].FailWrites = true, true
	w := s.startWrite(s.a, 4096, 7)
	s.Run(time.Second)
	require.Equal(t, protocol.Inconsistent, s.st(s.a).Disk)
	require.False(t, w.done)
	s.a.metas[0].thaw()
	s.until("the write", func() bool { return w.done })
	require.NoError(t, w.err)
	s.a.disks[0].FailWrites = false

	s.a.Crash(true)
	s.Run(time.Second)
	s.a.Boot()
	s.Run(time.Second)
	s.connect(s.a, core.ConnectOptions{})
	s.until("synced", s.bothUpToDate)
	s.equal()
	s.promote(s.a)
	require.Equal(t, bytes.Repeat([]byte{7}, 4096), s.read(s.a, 4096, 4096))
}

// TestOnlyCopyIsRemembered: a write that only the peer has is acknowledged when the peer
// will remember, even after a crash, that the Primary went on without its own disk. Else
// that disk, when it comes back, would be the source of a resync without the write.
func TestOnlyCopyIsRemembered(t *testing.T) {
	for _, forced := range []bool{false, true} {
		opt := timeoutOptions()
		opt.External, opt.Volume.DiskTimeout = true, time.Minute
		s := writtenOnce(t, opt)
		s.b.metas[0].Frozen = true
		s.a.disks[0].Frozen, s.a.disks[0].FailWrites = forced, !forced
		w := s.startWrite(s.a, 4096, 7)
		s.Run(time.Second)
		if forced {
			s.a.mustDo(t, "detach", func(cmd *core.Command) { s.a.core.Detach(cmd, 0, true) })
		}
		s.until("diskless", func() bool { return s.st(s.a).Disk == protocol.Diskless })
		s.Run(time.Second)
		require.False(t, w.done, "forced %v", forced)
		s.b.metas[0].thaw()
		s.until("the write", func() bool { return w.done })
		require.NoError(t, w.err)
		s.a.disks[0].FailWrites = false
		s.a.disks[0].thaw()
		for _, n := range s.Nodes {
			n.Crash(true)
		}
		s.Run(time.Second)
		for _, n := range s.Nodes {
			n.Boot()
		}
		s.Run(time.Second)
		for _, n := range s.Nodes {
			s.connect(n, core.ConnectOptions{})
		}
		s.until("synced", s.bothUpToDate)
		s.equal()
		s.promote(s.a)
		require.Equal(t, bytes.Repeat([]byte{7}, 4096), s.read(s.a, 4096, 4096))
	}
}

// TestPassOnAlone: an error on the only disk that has what was written since the peer was
// lost does not make that disk the worse one.
func TestPassOnAlone(t *testing.T) {
	for name, failing := range map[string]func(d *Disk, on bool){
		"reads":              func(d *Disk, on bool) { d.FailReads = on },
		"writes and flushes": func(d *Disk, on bool) { d.FailWrites = on },
	} {
		opt := testOptions()
		opt.External, opt.Volume.DetachOnIO = true, core.IOPassOn
		s := skipped(t, opt)
		s.promote(s.a)
		s.SetLink(false)
		s.until("alone", func() bool { return s.st(s.a).Conn < protocol.Connected })
		s.write(s.a, 4096, 1, 4096)
		disk := s.a.disks[0]
		failing(disk, true)
		var errs []error
		for _, kind := range []core.IOKind{core.IORead, core.IOWrite, core.IOFlush} {
			io := &core.IO{Kind: kind, Off: 8192}
			if kind != core.IOFlush {
				io.Buf = make([]byte, 4096)
			}
			errs = append(errs, s.io(s.a, io))
		}
		require.Error(t, errors.Join(errs...), name)
		require.Equal(t, protocol.UpToDate, s.st(s.a).Disk, name)
		failing(disk, false)

		s.SetLink(true)
		s.until("synced", s.bothUpToDate)
		s.equal()
		require.Equal(t, bytes.Repeat([]byte{1}, 4096), s.read(s.a, 4096, 4096), name)
	}
}

// TestPassOnBoth: both disks pass on an error before either node knew of the other's.
// Neither has all that was written, and nothing is copied until a forced promotion, also
// of the node that is Primary, says whose data it is to be.
func TestPassOnBoth(t *testing.T) {
	opt := testOptions()
	opt.External, opt.Volume.DetachOnIO = true, core.IOPassOn
	s := writtenOnce(t, opt)
	s.net.stall(s.a.idx, true) // it does not hear of the other disk before its own fails
	s.a.disks[0].FailWrites, s.b.disks[0].FailWrites = true, true
	w := s.startWrite(s.a, 8192, 2)
	s.Run(10 * time.Millisecond)
	s.net.stall(s.a.idx, false)
	s.until("the write", func() bool { return w.done })
	require.Error(t, w.err)
	for _, n := range s.Nodes {
		require.Equal(t, protocol.Inconsistent, s.st(n).Disk)
		n.disks[0].FailWrites = false
	}
	require.Contains(t, s.a.handlerEvents(), core.HandlerPriOnInconDegr)
	s.Run(time.Minute)
	require.Equal(t, protocol.Connected, s.st(s.a).Conn)

	s.a.mustDo(t, "promote", func(cmd *core.Command) { s.a.core.Promote(cmd, true) })
	s.until("synced", s.bothUpToDate)
	s.equal()
	require.Equal(t, bytes.Repeat([]byte{1}, 4096), s.read(s.a, 4096, 4096))
}

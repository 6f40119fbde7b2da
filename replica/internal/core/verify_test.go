// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/protocol"
)

func testCore(t *testing.T, change func(*Config)) *Core {
	cfg := Config{Name: "r0", Rand: func() uint64 { return 42 }, Volumes: []VolumeConfig{{}}, Peers: []PeerConfig{{Name: "peer"}}}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	require.NoError(t, err)
	return c
}

func TestAlgorithmsOfTheConfiguration(t *testing.T) {
	for _, test := range []struct {
		net  NetOptions
		good bool
	}{
		{NetOptions{}, true},
		{NetOptions{VerifyAlg: "crc32c"}, true},
		{NetOptions{VerifyAlg: "sha512", CSumsAlg: "xxhash64", IntegrityAlg: "md5"}, true},
		{NetOptions{CSumsAlg: "sha1", CSumsAfterCrashOnly: true}, true},
		{NetOptions{CSumsAlg: "crc32c"}, false},
		{NetOptions{VerifyAlg: "crc32"}, false},
		{NetOptions{CSumsAlg: "rot13"}, false},
		{NetOptions{IntegrityAlg: "rot13"}, false},
	} {
		_, err := New(Config{Rand: func() uint64 { return 1 }, Volumes: []VolumeConfig{{}}, Net: test.net})
		require.Equal(t, test.good, err == nil, "%+v: %v", test.net, err)
		if err != nil {
			require.ErrorIs(t, err, ErrConfig)
		}
	}
	for n, good := range map[uint32]bool{0: true, 4096: true, 65536: true, 1 << 20: true, 512: false, 12288: false, 2 << 20: false} {
		_, err := New(Config{Rand: func() uint64 { return 1 }, Volumes: []VolumeConfig{{ThinBytes: n}}})
		require.Equal(t, good, err == nil, "%d", n)
	}
}

// TestWhoCompares: the table of csums-alg, csums-after-crash-only and versions.
func TestWhoCompares(t *testing.T) {
	for _, test := range []struct {
		name               string
		alg                string
		version            protocol.Version
		crashOnly          bool
		crashed, peerCrash bool
		want               string
	}{
		{"configured", "md5", 101, false, false, false, "md5"},
		{"nothing configured", "", 101, false, true, true, ""},
		{"too old a version", "md5", 88, false, false, false, ""},
		{"the first version", "md5", 89, false, false, false, "md5"},
		{"no crash", "md5", 101, true, false, false, ""},
		{"own crash", "md5", 101, true, true, false, "md5"},
		{"the peer's crash", "md5", 101, true, false, true, "md5"},
		{"adopted from the peer, too weak", "crc32c", 101, false, false, false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := testCore(t, func(cfg *Config) { cfg.Net.CSumsAfterCrashOnly = test.crashOnly })
			pd := c.vols[0].pds[0]
			pd.p.session.Version = test.version
			var err error
			pd.p.csumsAlg, err = protocol.LookupDigest(test.alg)
			require.NoError(t, err)
			pd.v.crashedPrimary = test.crashed
			if test.peerCrash {
				pd.uuidFlags = 2
			}
			require.Equal(t, test.want, pd.checksums().Name())
		})
	}
}

// TestVerifyReportMerges: blocks are reported in order, whatever the order of the
// answers, and merged only where nothing lies between them.
func TestVerifyReportMerges(t *testing.T) {
	c := testCore(t, nil)
	pd := c.vols[0].pds[0]
	pd.v.size = 64
	o := &pd.verify
	o.left, o.total = 8, 8
	for b := range uint64(8) {
		o.items = append(o.items, verifyItem{sector: b * 8, size: 4096, state: verifyAsked})
	}
	end := func(b uint64, differs bool) {
		it := o.find(b*8, 4096, verifyAsked)
		it.differs, it.state = differs, verifyDone
		o.retire()
	}
	end(3, true)
	end(1, true)
	end(2, true)
	require.EqualValues(t, 8, o.left, "the first block is still missing")
	require.Equal(t, &VerifyRange{To: 8 * 4096}, o.reach())
	end(0, false)
	require.Equal(t, &VerifyRange{To: 8 * 4096, At: 4 * 4096}, o.reach())
	require.EqualValues(t, 4, o.left)
	require.EqualValues(t, 4, o.next)
	end(4, false)
	end(5, true)
	end(7, true)
	end(6, false)
	o.closeRange()
	require.Equal(t, []ByteRange{{4096, 3 * 4096}, {5 * 4096, 4096}, {7 * 4096, 4096}}, o.found.Ranges)
	require.EqualValues(t, 5*4096, o.found.Different)
	require.EqualValues(t, 8*4096, o.found.To)
	require.Zero(t, o.left)
	require.Empty(t, o.items)
}

func TestVerifyReportIsBounded(t *testing.T) {
	c := testCore(t, nil)
	o := &c.vols[0].pds[0].verify
	const n = MaxVerifyRanges + 5
	for b := range uint64(n) {
		o.items = append(o.items, verifyItem{sector: b * 16, size: 4096, state: verifyDone, differs: true})
	}
	o.retire()
	o.closeRange()
	require.Len(t, o.found.Ranges, MaxVerifyRanges)
	require.True(t, o.found.More)
	require.EqualValues(t, n*4096, o.found.Different)
}

func TestPlanVerify(t *testing.T) {
	const size = 100*8 + 3
	end := bitmap.BitsFor(size)
	for _, test := range []struct {
		opt      VerifyOptions
		resume   uint64
		version  protocol.Version
		from, to uint64
		err      error
	}{
		{opt: VerifyOptions{}, version: 101, from: 0, to: end},
		{opt: VerifyOptions{Start: 4097, Stop: 8193}, version: 101, from: 1, to: 3},
		{opt: VerifyOptions{Start: size*512 - 1}, version: 101, from: 100, to: end},
		{opt: VerifyOptions{Resume: true}, resume: 40, version: 101, from: 40, to: end},
		{opt: VerifyOptions{Resume: true}, resume: end, version: 101, from: 0, to: end},
		{opt: VerifyOptions{Start: 81920}, resume: 40, version: 96, from: 20, to: end},
		{opt: VerifyOptions{Start: 81920}, version: 89, from: 0, to: end},
		{opt: VerifyOptions{Stop: 81920}, version: 96, err: protocol.CodeNotSupported},
		{opt: VerifyOptions{Stop: 81920}, version: 100, err: protocol.CodeNotSupported},
		{opt: VerifyOptions{Stop: 81920}, version: 97, from: 0, to: 20},
		{opt: VerifyOptions{Start: -1}, version: 101, err: ErrRange},
		{opt: VerifyOptions{Start: size*512 + 1}, version: 101, err: ErrRange},
		{opt: VerifyOptions{Stop: size*512 + 1}, version: 101, err: ErrRange},
		{opt: VerifyOptions{Start: 2, Stop: 1}, version: 101, err: ErrRange},
		{opt: VerifyOptions{Start: 4096 * 101}, version: 101, err: ErrRange},
		{opt: VerifyOptions{Start: 4096, Stop: 4096}, version: 101, err: ErrRange},
	} {
		t.Run(fmt.Sprintf("%+v in %d", test.opt, test.version), func(t *testing.T) {
			c := testCore(t, nil)
			pd := c.vols[0].pds[0]
			pd.v.size, pd.p.session.Version, pd.verify.resume = size, test.version, test.resume
			plan, err := pd.planVerify(&Command{}, test.opt)
			if test.err != nil {
				require.ErrorIs(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, [2]uint64{test.from, test.to}, [2]uint64{plan.from, plan.to})
		})
	}
}

// TestStrayVerifyPackets: what an interrupted verify leaves under way is no violation,
// and never takes a mark away.
func TestStrayVerifyPackets(t *testing.T) {
	c := testCore(t, nil)
	pd := c.vols[0].pds[0]
	pd.v.size, pd.bm = 8000, bitmap.New(1000)
	pd.bm.SetRange(5, 6)
	require.NoError(t, pd.receiveVerifyReply(protocol.BlockRequest{Sector: 8, Size: 4096, Digest: []byte{1}}))
	require.NoError(t, pd.receiveVerifyResult(protocol.BlockAck{Sector: 40, Size: 4096, ID: protocol.IDInSync}))
	require.EqualValues(t, 1, pd.bm.Count())
	require.NoError(t, pd.receiveVerifyResult(protocol.BlockAck{Sector: 80, Size: 4096, ID: protocol.IDOutOfSync}))
	require.True(t, pd.bm.Test(10))
	require.ErrorIs(t, pd.receiveVerifyResult(protocol.BlockAck{Sector: 80, Size: 4096, ID: 7}), protocol.ErrField)
	require.ErrorIs(t, pd.receiveInSync(protocol.BlockAck{Sector: 40, Size: 4096, ID: protocol.IDSyncer}), errSequence)
	require.EqualValues(t, 2, pd.bm.Count(), "a word of equality that nobody asked for clears nothing")
	pd.verify.running, pd.verify.source = true, true
	require.ErrorIs(t, pd.receiveVerifyReply(protocol.BlockRequest{Sector: 8, Size: 4096, Digest: []byte{1}}), protocol.ErrField)
}

// TestVerifyAlgorithmsAreAdopted: equal at connect, adopted later; unknown ones never.
func TestVerifyAlgorithmsAreAdopted(t *testing.T) {
	c := testCore(t, nil)
	pd := c.vols[0].pds[0]
	p := pd.p
	p.session.Version, p.phase = 101, phaseUp
	pd.conn = protocol.Connected
	pd.receiveSyncParam(protocol.SyncParam{VerifyAlg: "sha1", CsumsAlg: "crc32c"})
	require.Equal(t, [2]string{"sha1", "crc32c"}, [2]string{p.verifyAlg.Name(), p.csumsAlg.Name()})
	require.Equal(t, phaseUp, p.phase)
	require.Zero(t, pd.checksums().Size(), "too weak to rely on")
	pd.receiveSyncParam(protocol.SyncParam{VerifyAlg: "rot13"})
	require.Equal(t, phaseClosing, p.phase)
	require.Equal(t, "sha1", p.verifyAlg.Name())
	require.ErrorIs(t, c.eff.Events[len(c.eff.Events)-2].Err, ErrIncompatible)
}

// TestVerifiedBlocksAreInTheWayOfOwnWritesOnly: to wait for each other would never end.
func TestVerifiedBlocksAreInTheWayOfOwnWritesOnly(t *testing.T) {
	c := testCore(t, nil)
	l := &c.vols[0].active
	ran := ""
	run := func(name string) func(*Core, *interval) {
		return func(*Core, *interval) { ran += name }
	}
	q := func(name string, write, hold bool) *interval {
		return &interval{from: 0, to: 8, write: write, hold: hold, peer: &peerReq{}, run: run(name)}
	}
	hold := q("h", false, true)
	require.True(t, l.add(hold))
	peer := q("p", true, false)
	require.True(t, l.add(peer), "a peer's write goes on")
	own := &interval{from: 4, to: 12, write: true, req: &request{}, run: run("o")}
	require.False(t, l.add(own))
	l.remove(peer)
	require.Empty(t, ran)
	l.remove(hold)
	require.Equal(t, "o", ran)
}

func TestSum(t *testing.T) {
	md5, err := protocol.LookupDigest("md5")
	require.NoError(t, err)
	o := &Op{Kind: OpRead, Buf: make([]byte, 4096), Digest: md5, ZeroCheck: true}
	o.Sum()
	require.Equal(t, md5.Sum(nil, o.Buf), o.sum)
	require.True(t, o.allZero)
	for _, at := range []int{0, 1, 7, 8, 4088, 4095} {
		o := &Op{Kind: OpRead, Buf: make([]byte, 4096), ZeroCheck: true}
		o.Buf[at] = 1
		o.Sum()
		require.False(t, o.allZero, "%d", at)
	}
	require.True(t, isZero(nil))
	require.True(t, isZero(make([]byte, 13)))
	require.False(t, isZero([]byte{0, 0, 0, 0, 0, 0, 0, 0, 1}))
	failed := &Op{Kind: OpRead, Buf: make([]byte, 4096), Digest: md5, Err: errors.New("bad")}
	failed.Sum()
	require.Empty(t, failed.sum)
	require.Zero(t, testing.AllocsPerRun(10, func() {
		o.summed = false
		o.Sum()
	}))
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/stretchr/testify/require"
)

// load returns a host's view of a resource of a file in testdata.
func load(t *testing.T, file, resource, host string) *Node {
	c, err := Load(filepath.Join("testdata", file))
	require.NoError(t, err)
	r, err := c.Resource(resource)
	require.NoError(t, err)
	n, err := r.Node(host)
	require.NoError(t, err)
	return n
}

// problems returns "LINE:COLUMN OPTION KIND" of each.
func problems(n *Node) []string {
	var list []string
	for _, p := range n.Problems {
		list = append(list, fmt.Sprintf("%d:%d %s: %v", p.Pos.Line, p.Pos.Column, p.Option, p.Kind))
	}
	return list
}

func TestNode83(t *testing.T) {
	n := load(t, "drbd83.conf", "r0", "alpha")
	require.Equal(t, &Node{
		Host: "alpha", Peer: "beta",
		Config: replica.Config{
			Name:    "r0",
			Volumes: []replica.VolumeConfig{{Resync: replica.ResyncConfig{Rate: 125 << 20}}},
			Peers:   []replica.PeerConfig{{Name: "beta", Protocol: protocol.C}},
		},
		Disks:    []Disk{{Device: "/dev/drbd0", Path: "/dev/vg1/mirror0"}},
		TCP:      transport.TCPConfig{Local: "192.0.2.2:7788", Remote: "192.0.2.3:7788"},
		Startup:  Startup{Timeouts: replica.WaitTimeouts{Degraded: 2 * time.Minute}},
		Problems: n.Problems,
	}, n)
	require.Equal(t, []string{"6:5 global usage-count: no effect"}, problems(n))
	require.NoError(t, n.Err())

	n = load(t, "drbd83.conf", "r0", "beta")
	require.Equal(t, "alpha", n.Peer)
	require.Equal(t, "192.0.2.3:7788", n.TCP.Local)
	require.Equal(t, "192.0.2.2:7788", n.TCP.Remote)
}

// What died with 0.7 is named, with what is made of it.
func TestNode07(t *testing.T) {
	n := load(t, "drbd07.conf", "data", "node-b")
	require.Equal(t, []replica.VolumeConfig{{
		MetaDisk: metadata.Indexed(0), ALExtents: 257, OnIOError: replica.CallLocalIOError, Resync: replica.ResyncConfig{Rate: 10 << 20},
	}}, n.Config.Volumes)
	require.Equal(t, []Disk{{Device: "/dev/drbd0", Path: "/dev/sdb2", MetaPath: "/dev/sdb1"}}, n.Disks)
	require.Nil(t, n.Config.Handlers.PriOnInconDegr, "it needs a shell")
	require.Equal(t, []string{
		"4:3 incon-degr-cmd: not supported", "4:3 incon-degr-cmd: legacy", "6:10 disk on-io-error: legacy", "8:22 syncer group: legacy",
	}, problems(n))
	require.ErrorContains(t, n.Err(), "put the line into a script")
	require.Contains(t, n.Problems[3].String(), "resync-after")
}

func TestNode84(t *testing.T) {
	n := load(t, "drbd84.conf", "db", "beta")
	require.Equal(t, "192.0.2.3:7790", n.TCP.Local)
	require.Equal(t, []Disk{
		{Device: "minor 10", Path: "/dev/vg1/tables"}, {Device: "minor 11", Path: "/dev/vg1/wal", MetaPath: "/dev/vg1/meta"},
	}, n.Disks)
	require.Len(t, n.Config.Volumes, 2)
	for i, v := range n.Config.Volumes {
		require.EqualValues(t, i, v.ID)
		require.Equal(t, 10+i, v.Minor)
		require.Equal(t, []metadata.Location{metadata.Internal(), metadata.FlexExternal()}[i], v.MetaDisk)
		require.Equal(t, 3389, v.ALExtents)
		require.Negative(t, v.Resync.PlanAhead, "0 is a fixed rate")
		v.Resync.PlanAhead = 0
		require.Equal(t, replica.ResyncConfig{Rate: 40 << 20, MaxRate: 300 << 20, MinRate: 100 << 20}, v.Resync)
	}
	p := n.Config.Peers[0]
	require.Equal(t, 8000, p.MaxBuffers)
	require.Equal(t, 8000, p.MaxEpochSize)
	require.Equal(t, "sha1", p.CRAMAlg)
	require.Equal(t, "change me", p.Secret)
	require.Equal(t, protocol.PolicyDiscardZeroChanges, p.AfterSB0Pri)
	require.Equal(t, protocol.PolicyDiscardSecondary, p.AfterSB1Pri)
	require.Equal(t, protocol.PolicyDisconnect, p.AfterSB2Pri)
	require.Equal(t, &replica.ExecHandlers{
		Commands: map[string][]string{
			"split-brain": {"/usr/local/sbin/notify-split-brain", "admin"}, "fence-peer": {"/usr/local/sbin/fence"},
			"before-resync-target": {"/usr/local/sbin/snapshot"},
		},
		Disks: map[uint16]string{0: "/dev/vg1/tables", 1: "/dev/vg1/wal"}, Conf: filepath.Join("testdata", "drbd84.conf"),
	}, n.Handlers)
	require.Same(t, n.Handlers, n.Config.Fencer)
	require.NotNil(t, n.Config.Handlers.SplitBrain)
	require.Nil(t, n.Config.Handlers.PriLost)
	require.Equal(t, replica.ResourceAndStonith, n.Config.Volumes[1].Fencing)
	require.Equal(t, "crc32c", p.VerifyAlg)
	require.Equal(t, "sha1", p.CSumsAlg)
}

func TestNode9(t *testing.T) {
	n := load(t, "drbd9.conf", "res0", "alpha")
	require.Equal(t, "192.0.2.61:7000", n.TCP.Local)
	require.Equal(t, "192.0.2.62:7000", n.TCP.Remote)
	require.Contains(t, problems(n), "3:25 options auto-promote: DRBD 9 only")
	require.Contains(t, problems(n), "7:14 node-id: no effect")
	require.NotContains(t, strings.Join(problems(n), " "), "quorum", "off is what happens anyway")
	require.ErrorIs(t, n.Err(), ErrUnsupported)
	require.ErrorContains(t, n.Err(), "drbd9.conf:3:25")

	c, err := Load("testdata/drbd9-many.conf")
	require.NoError(t, err)
	mesh, err := c.Resource("mesh")
	require.NoError(t, err)
	_, err = mesh.Node("a")
	require.ErrorIs(t, err, ErrUnsupported)
	require.ErrorContains(t, err, "drbd9-many.conf:7:3", "the third host")
	n = load(t, "drbd9-many.conf", "paths", "b")
	require.Equal(t, "192.0.2.12:5", n.TCP.Local)
	require.Equal(t, "192.0.2.11:5", n.TCP.Remote)
	require.Equal(t, "192.0.2.1:3", load(t, "drbd9-many.conf", "pair", "192.0.2.2").TCP.Remote)
}

// node parses a resource of two hosts with something in it, and returns a's view.
func node(t *testing.T, more string) (*Node, error) {
	c, err := Parse("f", pair(more))
	require.NoError(t, err)
	return c.Resources[0].Node("a")
}

// Each option ends in its field, in the field's unit.
func TestOptions(t *testing.T) {
	want := replica.PeerConfig{Name: "b"}
	vol := replica.VolumeConfig{}
	tcp := transport.TCPConfig{Local: "192.0.2.1:1", Remote: "192.0.2.2:1"}
	for _, test := range []struct {
		text string
		set  func()
	}{
		{"protocol A;", func() { want.Protocol = protocol.A }},
		{"net { timeout 50; }", func() { want.Timeout = 5 * time.Second }},
		{"net { ko-count 0; }", func() { want.KoCount = -1 }},
		{"net { ping-int 3; }", func() { want.PingInterval = 3 * time.Second }},
		{"net { ping-timeout 7; }", func() { want.PingTimeout, tcp.PingTimeout = 700*time.Millisecond, 700*time.Millisecond }},
		{"net { connect-int 4; }", func() { tcp.ConnectInterval = 4 * time.Second }},
		{"net { socket-check-timeout 4; }", func() { tcp.SocketCheckTimeout = 400 * time.Millisecond }},
		{"net { sndbuf-size 512k; rcvbuf-size 1M; }", func() { tcp.SndBuf, tcp.RcvBuf = 512<<10, 1<<20 }},
		{"net { max-buffers 8k; max-buffers 9000; }", func() { want.MaxBuffers = 9000 }},
		{"net { use-rle no; always-asbp; }", func() { want.DisableRLE, want.AlwaysASBP = true, true }},
		{"syncer { use-rle no; }", func() { want.DisableRLE = true }},
		{"net { data-integrity-alg crc32c; }", func() { want.IntegrityAlg = "crc32c" }},
		{"net { after-sb-0pri discard-node-a; }", func() { want.AfterSB0Pri = protocol.PolicyDiscardLocal }},
		{"net { after-sb-0pri discard-node-b; }", func() { want.AfterSB0Pri = protocol.PolicyDiscardRemote }},
		{"net { after-sb-1pri consensus; }", func() { want.AfterSB1Pri = protocol.PolicyConsensus }},
		{"net { rr-conflict violently; }", func() { want.RRConflict = metadata.RRViolently }},
		{"net { on-congestion pull-ahead; congestion-fill 1M; congestion-extents 100; }", func() {
			want.OnCongestion, want.CongestionFill, want.CongestionExtents = replica.PullAhead, 1<<20, 100
		}},
		{"net { verify-alg md5; csums-alg sha1; csums-after-crash-only; }", func() {
			want.VerifyAlg, want.CSumsAlg, want.CSumsAfterCrashOnly = "md5", "sha1", true
		}},
		{"net { allow-two-primaries; }", func() { want.AllowTwoPrimaries = true }},
		{"net { fencing resource-only; }", func() { vol.Fencing = replica.ResourceOnly }},
		{"disk { fencing resource-and-stonith; }", func() { vol.Fencing = replica.ResourceAndStonith }},
		{"disk { rs-discard-granularity 64K; }", func() { vol.Resync.ThinGranularity = 64 << 10 }},
		{"disk { size 1G; }", func() { vol.Size = 1 << 30 }},
		{"disk { size 2048; }", func() { vol.Size = 1 << 20 }},
		{"disk { on-io-error pass_on; }", func() { vol.OnIOError = replica.PassOn }},
		{"disk { no-disk-flushes; }", func() { vol.NoDiskFlushes = true }},
		{"disk { no-disk-flushes; no-disk-barrier; }", func() { vol.NoDiskFlushes = true }},
		{"disk { resync-after r/3; }", func() { vol.ResyncAfter = &replica.VolumeRef{Resource: "r", Volume: 3} }},
		{"disk { resync-rate 10M; }", func() { vol.Resync.Rate = 10 << 20 }},
		{"syncer { rate 10M; }", func() { vol.Resync.Rate = 10 << 20 }},
		{"disk { c-plan-ahead 5; c-delay-target 3; }", func() {
			vol.Resync.PlanAhead, vol.Resync.DelayTarget = 500*time.Millisecond, 300*time.Millisecond
		}},
		{"disk { c-fill-target 1M; c-max-rate 1M; c-min-rate 512; }", func() {
			vol.Resync.FillTarget, vol.Resync.MaxRate, vol.Resync.MinRate = 1<<20, 1<<20, 512<<10
		}},
	} {
		want, vol, tcp = replica.PeerConfig{Name: "b"}, replica.VolumeConfig{}, transport.TCPConfig{Local: tcp.Local, Remote: tcp.Remote}
		test.set()
		n, err := node(t, test.text)
		require.NoError(t, err, test.text)
		require.Equal(t, want, n.Config.Peers[0], test.text)
		require.Equal(t, vol, n.Config.Volumes[0], test.text)
		require.Equal(t, tcp, n.TCP, test.text)
		require.Empty(t, n.Problems, test.text)
	}
}

// TestWriteOrderingOptions has every combination of the three options that choose a method of
// write ordering (spec: behaviour 5.6), and what becomes of it.
func TestWriteOrderingOptions(t *testing.T) {
	for _, test := range []struct {
		text    string
		noFlush bool
		notes   []string
	}{
		{"", false, nil},
		{"disk-flushes no;", true, nil},
		{"disk-drain no;", false, []string{"disk-drain"}},
		{"disk-flushes no; disk-drain no;", true, []string{"disk-drain"}}, // "none" is not there
		{"disk-barrier yes;", false, []string{"disk-barrier"}},
		{"disk-barrier yes; disk-flushes no;", false, []string{"disk-barrier"}}, // a flush stands for it
		{"disk-flushes no; disk-barrier yes;", false, []string{"disk-barrier"}},
		{"disk-barrier yes; disk-drain no;", false, []string{"disk-barrier", "disk-drain"}},
		{"disk-barrier yes; disk-flushes no; disk-drain no;", false, []string{"disk-barrier", "disk-drain"}},
		{"no-disk-barrier; no-disk-flushes; no-disk-drain;", true, []string{"disk-drain"}},
	} {
		n, err := node(t, "disk { "+test.text+" }")
		require.NoError(t, err, test.text)
		require.Equal(t, test.noFlush, n.Config.Volumes[0].NoDiskFlushes, test.text)
		require.Len(t, n.Problems, len(test.notes), test.text)
		for i, name := range test.notes {
			require.Contains(t, n.Problems[i].String(), name, test.text)
		}
	}
}

// What DRBD takes and replica.Open refuses is named, and left out.
func TestValuesThatAreLeftOut(t *testing.T) {
	n, err := node(t, "net { csums-alg crc32c; } disk { rs-discard-granularity 5000; }")
	require.NoError(t, err)
	require.Equal(t, []string{"2:7 net csums-alg: no effect", "2:34 disk rs-discard-granularity: no effect"}, problems(n))
	require.Empty(t, n.Config.Peers[0].CSumsAlg)
	require.Zero(t, n.Config.Volumes[0].Resync.ThinGranularity)

	n, err = node(t, "options { on-no-data-accessible suspend-io; on-no-quorum io-error; }")
	require.NoError(t, err)
	require.Empty(t, n.Problems)
	require.Equal(t, replica.NoDataSuspend, n.Config.OnNoData)
	require.Equal(t, replica.QuorumError, n.Config.OnQuorumLost)
}

// Every option there is, is obeyed, handed to the program, or named, unless it says
// what happens anyway.
func TestNoOptionIsIgnored(t *testing.T) {
	for section, options := range sectionSpecs {
		for name, sp := range options {
			obeyed := mappings[place{section, name}] != nil
			if obeyed || section == "global" || section == "handlers" && !sp.only9 {
				continue
			}
			value := ""
			switch sp.kind {
			case number:
				value = fmt.Sprint(sp.min)
				if sp.isDefault(value) {
					value = fmt.Sprint(sp.max)
				}
			case toggle:
				value = map[string]string{"yes": "no", "no": "yes", "": "yes"}[sp.def]
			case choice:
				value = sp.values[1]
			case text:
				value = "x"
			}
			n, err := node(t, fmt.Sprintf("%s { %s %s; }", section, name, value))
			require.NoError(t, err)
			require.Len(t, n.Problems, 1, "%s %s %s", section, name, value)
			require.Equal(t, Pos{"f", 2, len(section) + 4}, n.Problems[0].Pos)
			if sp.def == "" {
				continue
			}
			n, err = node(t, fmt.Sprintf("%s { %s %s; }", section, name, sp.def))
			require.NoError(t, err)
			require.Empty(t, n.Problems, "%s %s %s is the default", section, name, sp.def)
		}
	}
}

// A later place counts more: common, resource, volume.
func TestInheritance(t *testing.T) {
	c, err := Parse("f", "common { protocol A; net { timeout 40; } disk { al-extents 67; c-max-rate 1M; } }"+strings.ReplaceAll(
		pair("net { timeout 50; } disk { al-extents 68; } volume 0 { device minor 0; disk /dev/x; meta-disk internal; }"),
		"device minor 0; disk /dev/a; meta-disk internal;", "volume 0 { disk { al-extents 69; } }"))
	require.NoError(t, err)
	n, err := c.Resources[0].Node("b")
	require.NoError(t, err)
	require.Equal(t, protocol.A, n.Config.Peers[0].Protocol)
	require.Equal(t, 5*time.Second, n.Config.Peers[0].Timeout)
	require.Equal(t, 69, n.Config.Volumes[0].ALExtents)
	require.EqualValues(t, 1<<20, n.Config.Volumes[0].Resync.MaxRate)
}

func TestNodesThatCannotBe(t *testing.T) {
	c, err := Parse("f", pair(""))
	require.NoError(t, err)
	_, err = c.Resource("q")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = c.Resources[0].Node("c")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = node(t, "net { after-sb-0pri discard-node-c; }")
	require.ErrorIs(t, err, ErrInvalid)
	_, err = node(t, "net { after-sb-0pri bogus; }")
	require.ErrorContains(t, err, "f:2:7")
	c, err = Parse("f", strings.ReplaceAll(pair(""), "address ", "address ssocks "))
	require.NoError(t, err)
	_, err = c.Resources[0].Node("a")
	require.ErrorIs(t, err, ErrUnsupported)
	c, err = Parse("f", "resource up { stacked-on-top-of r { device minor 9; address 192.0.2.9:1; } on c { device minor 9; disk /dev/a; meta-disk internal; address 192.0.2.3:1; } }")
	require.NoError(t, err)
	_, err = c.Resources[0].Node("c")
	require.ErrorIs(t, err, ErrUnsupported)

	// A resource of one host is one that never connects.
	c, err = Parse("f", "resource r { on a { device minor 0; disk none; address 192.0.2.1:1; } }")
	require.NoError(t, err)
	n, err := c.Resources[0].Node("a")
	require.NoError(t, err)
	require.Empty(t, n.Config.Peers)
	require.Empty(t, n.Disks[0].Path)
}

// One file makes two nodes that mirror each other.
func TestTwoNodesFromOneFile(t *testing.T) {
	dir := t.TempDir()
	text := fmt.Sprintf(`resource r0 {
  syncer { rate 125M; }
  net { cram-hmac-alg sha256; shared-secret "a b"; ping-timeout 1; }
  on alpha { device /dev/drbd0; disk %[1]s/alpha; meta-disk internal; address 127.0.0.1:%[2]d; }
  on beta { device /dev/drbd0; disk %[1]s/beta; meta-disk %[1]s/meta[1]; address 127.0.0.1:%[3]d; }
}`, strings.ReplaceAll(dir, "\\", "/"), freePort(t), freePort(t))
	for _, name := range []string{"alpha", "beta", "meta"} {
		f, err := os.Create(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NoError(t, f.Truncate(300<<20))
		require.NoError(t, f.Close())
	}
	alpha, beta := start(t, text, "alpha"), start(t, text, "beta")
	require.NoError(t, alpha.WaitConnected(t.Context()))
	require.NoError(t, alpha.Promote(t.Context(), replica.Force()))
	_, err := alpha.Volume(0).WriteAt(make([]byte, 4096), 0)
	require.NoError(t, err)
	require.Equal(t, protocol.Secondary, beta.Status().Role())
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// start brings a host's resource into service, as a program does.
func start(t *testing.T, text, host string) *replica.Resource {
	c, err := Parse("drbd.conf", text)
	require.NoError(t, err)
	n, err := c.Resources[0].Node(host)
	require.NoError(t, err)
	require.NoError(t, n.Err())
	open := func(path string) blockdev.Device {
		if path == "" {
			return nil
		}
		dev, err := blockdev.Open(path, blockdev.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, dev.Close()) })
		return dev
	}
	for i, d := range n.Disks {
		v := &n.Config.Volumes[i]
		v.Disk, v.MetaDevice = open(d.Path), open(d.MetaPath)
		require.NoError(t, replica.CreateMetadata(replica.Disk{Device: v.Disk, MetaDisk: v.MetaDisk, MetaDevice: v.MetaDevice}, metadata.CreateOptions{}))
	}
	n.TCP.ConnectInterval = 100 * time.Millisecond
	tcp, err := transport.NewTCP(n.TCP)
	require.NoError(t, err)
	n.Config.Peers[0].Transport = tcp
	res, err := replica.Open(t.Context(), n.Config)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, res.Close())
		require.NoError(t, tcp.Close())
	})
	require.NoError(t, res.Connect(t.Context()))
	return res
}

// What becomes of the samples is taken by replica.Open, on every host.
func TestSamplesOpen(t *testing.T) {
	files, err := filepath.Glob("testdata/*.conf")
	require.NoError(t, err)
	opened := 0
	for _, file := range files {
		c, err := Load(file)
		require.NoError(t, err)
		for _, r := range c.Resources {
			for _, h := range r.Hosts {
				n, err := r.Node(h.Name())
				if len(r.Hosts) > 2 {
					require.ErrorIs(t, err, ErrUnsupported)
					continue
				}
				require.NoError(t, err)
				openInMemory(t, n)
				opened++
			}
		}
	}
	require.GreaterOrEqual(t, opened, 16)
}

func openInMemory(t *testing.T, n *Node) {
	for i, d := range n.Disks {
		v := &n.Config.Volumes[i]
		v.Size = 0 // the memory is smaller
		if d.Path != "" {
			v.Disk = blockdev.NewMemory(16 << 20)
		}
		if d.MetaPath != "" {
			size := int64(1 << 20)
			if v.MetaDisk != metadata.FlexExternal() {
				size = int64(v.MetaDisk.Index()+1) * 128 << 20 // a slot each
			}
			v.MetaDevice = blockdev.NewMemory(size)
		}
		if v.Disk != nil {
			disk := replica.Disk{Device: v.Disk, MetaDisk: v.MetaDisk, MetaDevice: v.MetaDevice}
			require.NoError(t, replica.CreateMetadata(disk, metadata.CreateOptions{}))
		}
	}
	for _, d := range n.Disks {
		if d.Path == "" {
			return // a resource without any disk has to know its size from the peer
		}
	}
	n.Config.ResyncOrder = new(replica.ResyncOrder)
	res, err := replica.Open(t.Context(), n.Config)
	require.NoError(t, err, "%s on %s", n.Config.Name, n.Host)
	require.NoError(t, res.Close())
}

func TestSplitCommand(t *testing.T) {
	got, err := SplitCommand(`  /usr/lib/drbd/notify.sh  "two words" 'and more' last`)
	require.NoError(t, err)
	require.Equal(t, []string{"/usr/lib/drbd/notify.sh", "two words", "and more", "last"}, got)
	for _, bad := range []string{"", "  ", "a; b", "a | b", "echo $HOME", "`a`", "a > b", `a "b`} {
		_, err := SplitCommand(bad)
		require.Error(t, err, bad)
	}
}

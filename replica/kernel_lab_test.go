// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/stretchr/testify/require"
)

// What the disks of the lab are for.
const (
	labDiskBytes    = 24 << 20
	labPatternBytes = 4 << 20

	labDisk    = 0 // /dev/vda: volume 0
	labDisk2   = 1 // /dev/vdb: volume 1
	labPattern = 2 // /dev/vdc: random data to write from
	labBadOne  = 3 // /dev/vdd: fails once at labBadOffset
	labBadTwo  = 4 // /dev/vde: the same
	labLarge   = 5 // /dev/vdf: labLargeBytes

	labBadOffset  = 6 << 20
	labLargeBytes = 324 << 20

	labPatternDisk = 64 << 20 // the pattern, and data that scripts write
)

// kernelLab is a guest with the kernel's DRBD, and disks to experiment with.
type kernelLab struct {
	guest *kerneldrbd.Guest
	disks []string // files
	// pattern is what the disk labPattern holds. Guests read no host memory, so data
	// that the kernel shall write comes from there.
	pattern []byte

	matrix *kernelMatrix
	row    string // the scenario that runs
	only   kernelDirection
}

// newKernelLab starts a guest, which runs until all is over, the end of which is all's.
func newKernelLab(t, all *testing.T) *kernelLab {
	lab := &kernelLab{pattern: labPatternData()}
	dir := all.TempDir()
	opts := kerneldrbd.Options{}
	for i := range labLarge + 1 {
		path := filepath.Join(dir, fmt.Sprint("disk", i))
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		require.NoError(t, os.Truncate(path, lab.size(i)))
		lab.disks = append(lab.disks, path)
		disk := kerneldrbd.Disk{Path: path}
		if i == labBadOne || i == labBadTwo {
			disk.FailSector = labBadOffset / 512
		}
		opts.Disks = append(opts.Disks, disk)
	}
	require.NoError(t, os.WriteFile(lab.disks[labPattern], lab.pattern, 0o600))
	require.NoError(t, os.Truncate(lab.disks[labPattern], labPatternDisk))
	var err error
	lab.guest, err = kerneldrbd.Start(labContext(t), opts)
	require.NoError(t, err)
	all.Cleanup(func() { require.NoError(all, lab.guest.Close()) })
	return lab
}

func labPatternData() []byte {
	pattern := make([]byte, labPatternBytes)
	rng := rand.New(rand.NewPCG(8, 4))
	for i := range pattern {
		pattern[i] = byte(rng.Uint32())
	}
	return pattern
}

// size is that of a disk, in bytes.
func (lab *kernelLab) size(disk int) int64 {
	switch disk {
	case labLarge:
		return labLargeBytes
	case labPattern:
		return labPatternDisk
	}
	return labDiskBytes
}

// labContext limits a scenario generously: emulation is slow on a busy machine.
func labContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), labPatience)
	t.Cleanup(cancel)
	return ctx
}

// duoOptions are what scenarios vary.
type duoOptions struct {
	fresh bool // metadata as after create-md; else both disks are in sync
	two   bool // two volumes, 0 and 1
	// meta is where the metadata of volume 0 lies: "" for internal, "flexible", "indexed".
	meta     string
	at       int // the kernel's disk of volume 0; the node's has its size
	protocol protocol.ReplicationProtocol
	config   func(*replica.Config) // changes the node's configuration
	net      []string              // further options of the kernel's connect
	disk     []string              // further options of the kernel's attach
	// mayBreak allows broken connections, which otherwise fail the scenario.
	mayBreak bool
	// mayComplain allows what the kernel logs about a peer that it cannot work with.
	mayComplain bool
	// nodeDiskless and kernelDiskless leave a side without disk.
	nodeDiskless, kernelDiskless bool
}

// duo is a blockmirror node and a kernel resource that are each other's peer.
type duo struct {
	t    *testing.T
	ctx  context.Context
	lab  *kernelLab
	opts duoOptions
	mark kerneldrbd.Mark // of the kernel's log at the start

	kernel *kerneldrbd.Resource
	port   int // where the kernel dials

	node  *labNode
	rec   *recorder          // nil if nothing is recorded
	disks []*blockdev.Faulty // the node's
	metas []blockdev.Device  // with external metadata
	cfg   replica.Config

	mu      sync.Mutex
	history []string // state changes of the node
	log     bytes.Buffer
	record  sync.WaitGroup
}

// newDuo prepares both sides, attached and StandAlone.
func newDuo(t *testing.T, lab *kernelLab, opts duoOptions) *duo {
	t.Helper()
	if opts.protocol == 0 {
		opts.protocol = protocol.C
	}
	d := &duo{t: t, ctx: labContext(t), lab: lab, opts: opts, rec: newRecorder()}
	var err error
	d.mark, err = lab.guest.Mark(d.ctx)
	require.NoError(t, err)
	t.Cleanup(d.report)
	t.Cleanup(func() { d.rec.write(t) })

	d.port = freePort(t)
	d.kernel = &kerneldrbd.Resource{
		Guest: lab.guest, Name: "r0", Port: 7788,
		DiskOptions: append([]string{"--c-plan-ahead=0", "--resync-rate=100000"}, opts.disk...),
		NetOptions: append([]string{
			"--protocol=" + opts.protocol.String(), "--connect-int=3", "--socket-check-timeout=3", "--ping-timeout=300",
		}, opts.net...),
	}
	for i, n := 0, opts.volumes(); i < n; i++ {
		v := kerneldrbd.Volume{Number: i, Minor: i}
		if !opts.kernelDiskless {
			v.Disk = lab.device(opts.at + i)
			if opts.external() {
				v.MetaDisk = lab.device(opts.metaDisk())
				if opts.meta == "flexible" {
					v.MetaIndex = -1
				}
			}
			lab.format(t, opts.at+i, opts)
		}
		d.kernel.Volumes = append(d.kernel.Volumes, v)
	}
	require.NoError(t, d.kernel.Up(d.ctx))
	t.Cleanup(func() { require.NoError(t, d.kernel.Down(labContext(t))) })

	tr, err := transport.NewTCP(transport.TCPConfig{
		Local: fmt.Sprintf("127.0.0.1:%d", d.port), Remote: fmt.Sprintf("127.0.0.1:%d", lab.guest.HostPort(d.kernel.Port)),
		ConnectInterval: 3 * time.Second, PingTimeout: 30 * time.Second, SocketCheckTimeout: 300 * time.Millisecond,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tr.Close()) })
	d.cfg = replica.Config{
		Name:   "r0",
		Logger: slog.New(slog.NewTextHandler((*duoLog)(d), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Peers:  []replica.PeerConfig{{Name: "kernel", Transport: tr, Protocol: opts.protocol, PingTimeout: 30 * time.Second}},
	}
	for i := range opts.volumes() {
		v := replica.VolumeConfig{ID: uint16(i), Resync: replica.ResyncConfig{PlanAhead: -1, Rate: 100 << 20}}
		if !opts.nodeDiskless {
			disk := blockdev.NewFaulty(blockdev.NewMemory(lab.size(opts.at)))
			t.Cleanup(func() { require.NoError(t, disk.Close()) })
			d.disks, v.Disk = append(d.disks, disk), disk
			if opts.external() {
				meta := blockdev.NewMemory(lab.size(opts.metaDisk()))
				t.Cleanup(func() { require.NoError(t, meta.Close()) })
				d.metas, v.MetaDisk, v.MetaDevice = append(d.metas, meta), opts.location(), meta
			}
			require.NoError(t, replica.CreateMetadata(replica.Disk{Device: v.Disk, MetaDisk: v.MetaDisk, MetaDevice: v.MetaDevice}, opts.metadata(t, disk)))
		}
		d.cfg.Volumes = append(d.cfg.Volumes, v)
	}
	if d.rec != nil {
		d.cfg.Peers[0].Transport = &recordingTransport{Transport: tr, rec: d.rec}
	}
	if opts.config != nil {
		opts.config(&d.cfg)
	}
	d.openNode()
	return d
}

func (o *duoOptions) volumes() int {
	if o.two {
		return 2
	}
	return 1
}

// metadata is that of disks which are in sync, or of fresh ones.
func (o *duoOptions) metadata(t testing.TB, disk blockdev.Device) metadata.CreateOptions {
	if o.fresh {
		return metadata.CreateOptions{}
	}
	size := uint64(disk.Size()) / metadata.SectorSize
	if !o.external() {
		l, err := metadata.NewLayout(metadata.V08, metadata.Internal(), disk.Size(), metadata.Geometry{})
		require.NoError(t, err)
		size = l.UsableSectors
	}
	return metadata.CreateOptions{
		EffectiveSize: size, Current: 0x0123456789abcdee,
		Flags: metadata.Consistent | metadata.WasUpToDate,
	}
}

// format empties a disk of the kernel and writes metadata from this side.
func (lab *kernelLab) format(t testing.TB, disk int, opts duoOptions) {
	path := lab.disks[disk]
	require.NoError(t, os.Truncate(path, 0))
	require.NoError(t, os.Truncate(path, lab.size(disk)))
	f, err := blockdev.Open(path, blockdev.Options{NoDirect: true})
	require.NoError(t, err)
	on := replica.Disk{Device: f}
	var meta *blockdev.File
	if opts.external() {
		path := lab.disks[opts.metaDisk()]
		require.NoError(t, os.Truncate(path, 0))
		require.NoError(t, os.Truncate(path, lab.size(opts.metaDisk())))
		meta, err = blockdev.Open(path, blockdev.Options{NoDirect: true})
		require.NoError(t, err)
		on.MetaDisk, on.MetaDevice = opts.location(), meta
	}
	require.NoError(t, replica.CreateMetadata(on, opts.metadata(t, f)))
	require.NoError(t, f.Flush())
	require.NoError(t, f.Close())
	if meta != nil {
		require.NoError(t, meta.Flush())
		require.NoError(t, meta.Close())
	}
}

// device returns the name of a disk in the guest.
func (lab *kernelLab) device(disk int) string { return fmt.Sprintf("/dev/vd%c", 'a'+disk) }

func (o *duoOptions) external() bool { return o.meta != "" }

// metaDisk is the kernel's disk for external metadata; an index takes 128 MiB.
func (o *duoOptions) metaDisk() int {
	if o.meta == "indexed" {
		return labLarge
	}
	return labDisk2
}

func (o *duoOptions) location() metadata.Location {
	switch o.meta {
	case "flexible":
		return metadata.FlexExternal()
	case "indexed":
		return metadata.Indexed(0)
	}
	return metadata.Internal()
}

// freePort returns a port that nobody listens on now, outside of the range from which
// outgoing connections take theirs.
func freePort(t testing.TB) int {
	for range 1000 {
		ln, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)))
		if err != nil {
			continue
		}
		defer ln.Close()
		return ln.Addr().(*net.TCPAddr).Port
	}
	require.Fail(t, "no free port")
	return 0
}

// duoLog collects the node's log.
type duoLog duo

func (l *duoLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(p)
}

// openNode opens the node, records its history, and closes it at the end.
func (d *duo) openNode() {
	d.t.Helper()
	d.rec.open(&d.cfg)
	res, err := replica.Open(d.ctx, d.cfg)
	require.NoError(d.t, err)
	node := &labNode{Resource: res, rec: d.rec}
	d.node = node
	events := res.Events(context.Background())
	d.record.Go(func() {
		for ev := range events {
			d.mu.Lock()
			d.history = append(d.history, ev.String())
			d.mu.Unlock()
		}
	})
	d.t.Cleanup(func() {
		if d.node == node && !d.t.Failed() {
			d.settled()
		}
		require.NoError(d.t, node.Close())
		d.record.Wait()
	})
}

// settled records the state in which the node is left.
func (d *duo) settled() {
	d.t.Helper()
	if d.rec == nil {
		return
	}
	d.ctx = labContext(d.t)
	d.waitNode(func(st replica.VolumeStatus) bool {
		c := st.State.Conn
		return c == protocol.StandAlone || c == protocol.WFConnection || c >= protocol.Connected
	})
	if d.status(0).State.Conn == protocol.Connected {
		d.waitQuiet()
	}
	d.rec.status(d.node)
}

// report checks what both sides logged, and shows it if the scenario failed.
func (d *duo) report() {
	lines, err := d.lab.guest.Log(labContext(d.t), d.mark)
	require.NoError(d.t, err)
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.opts.mayBreak && !d.t.Failed() {
		gaveUp := 0
		for _, line := range lines {
			if gaveUpItself(line) {
				gaveUp++
			}
		}
		for _, line := range slices.Concat(lines, d.history) {
			m := brokenConnection.FindStringSubmatch(line)
			switch {
			case m == nil || neverConnected.MatchString(line):
			case (m[1] == "BrokenPipe" || m[1] == "NetworkFailure") && gaveUp > 0:
				gaveUp--
			default:
				d.t.Errorf("a connection broke: %s", line)
			}
		}
	}
	for _, line := range lines {
		if complains(line) && !d.opts.mayComplain {
			d.t.Errorf("the kernel complained: %s", line)
		}
	}
	if d.t.Failed() {
		d.t.Logf("kernel:\n%s\nnode:\n%s\nnode's log:\n%s", strings.Join(lines, "\n"), strings.Join(d.history, "\n"), d.log.String())
	}
}

var (
	brokenConnection = regexp.MustCompile(`-> (BrokenPipe|NetworkFailure|ProtocolError|Timeout) `)
	// The emulated network accepts for the guest, and finds out later that nobody listens
	// there: before the peer has said a word nothing is broken.
	neverConnected  = regexp.MustCompile(`conn\( WFConnection -> (BrokenPipe|NetworkFailure) \)`)
	kernelComplaint = regexp.MustCompile(`ASSERT|BUG|WARNING|Wrong magic|unexpected|Unexpected|[Ii]ncompatible|bad |Oops`)
)

// gaveUpItself reports whether a line of the kernel's log says that it dropped a
// connection after the handshake: the emulated network broke the attempt before it.
func gaveUpItself(line string) bool {
	return strings.Contains(line, "old_conn:BrokenPipe wanted_conn:WFReportParams")
}

// complains reports whether a line of the kernel's log says that something is wrong. Two
// are 8.4.11's own. Having fenced its peer under resource-and-stonith it writes its metadata
// while it holds a lock that does not allow that; and as a target whose link is cut between
// the two bitmaps it asserts that it can go on, and then does not.
func complains(line string) bool {
	return kernelComplaint.MatchString(line) && !strings.Contains(line, "rcu_note_context_switch") &&
		!strings.Contains(line, "ASSERT( rv == SS_SUCCESS ) in drivers/block/drbd/drbd_receiver.c")
}

// connect connects both sides and waits until both say so.
func (d *duo) connect() {
	d.t.Helper()
	d.connectKernel()
	d.connectNode()
	d.waitConnected()
}

func (d *duo) connectKernel(options ...string) {
	d.t.Helper()
	require.NoError(d.t, d.kernel.Connect(d.ctx, d.port, options...))
}

func (d *duo) connectNode(options ...replica.ConnectOption) {
	d.t.Helper()
	require.NoError(d.t, d.node.Connect(d.ctx, options...))
}

func (d *duo) waitConnected() {
	d.t.Helper()
	require.NoError(d.t, d.node.WaitConnected(d.ctx))
	d.waitKernel(func(m kerneldrbd.Minor) bool { return slices.Contains(connectedStates, m.Conn) })
}

var connectedStates = []string{
	"Connected", "StartingSyncS", "StartingSyncT", "WFBitMapS", "WFBitMapT", "WFSyncUUID", "SyncSource", "SyncTarget",
}

// waitSync waits until both sides are Connected and UpToDate, with nothing out of sync.
func (d *duo) waitSync() {
	d.t.Helper()
	require.NoError(d.t, d.node.WaitSync(d.ctx))
	d.waitKernel(func(m kerneldrbd.Minor) bool {
		return m.Conn == "Connected" && m.Disk == "UpToDate" && m.PeerDisk == "UpToDate" && m.OutOfSync() == 0
	})
	for i := range d.cfg.Volumes {
		require.Zero(d.t, d.status(uint16(i)).OutOfSync)
	}
}

// waitKernel waits for a state of the kernel's first volume.
func (d *duo) waitKernel(wanted func(kerneldrbd.Minor) bool) kerneldrbd.Minor {
	d.t.Helper()
	m, err := d.kernel.Wait(d.ctx, wanted)
	require.NoError(d.t, err)
	return m
}

// waitKernelState waits for one of these states, as Minor.State writes them.
func (d *duo) waitKernelState(states ...string) kerneldrbd.Minor {
	d.t.Helper()
	m, err := d.kernel.WaitState(d.ctx, states...)
	require.NoError(d.t, err)
	return m
}

// waitNode waits for a state of the node's volume 0. Counters change without events, so
// it looks again from time to time.
func (d *duo) waitNode(wanted func(replica.VolumeStatus) bool) replica.VolumeStatus {
	d.t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		st := d.status(0)
		if wanted(st) {
			return st
		}
		select {
		case <-ticker.C:
		case <-d.ctx.Done():
			require.Failf(d.t, "the node did not get there", "it is\n%v", d.node.Status())
		}
	}
}

// waitNodeState waits for a state, written as the kernel's.
func (d *duo) waitNodeState(states ...string) replica.VolumeStatus {
	d.t.Helper()
	return d.waitNode(func(st replica.VolumeStatus) bool { return slices.Contains(states, stateText(st.State)) })
}

func stateText(s protocol.State) string {
	return fmt.Sprintf("%v %v/%v %v/%v", s.Conn, s.Role, s.Peer, s.Disk, s.PeerDisk)
}

func (d *duo) status(volume uint16) replica.VolumeStatus {
	d.t.Helper()
	st, ok := d.node.Status().Volume(volume)
	require.True(d.t, ok)
	return st
}

// kernelLog returns what the kernel has logged in this scenario.
func (d *duo) kernelLog() []string {
	d.t.Helper()
	lines, err := d.lab.guest.Log(d.ctx, d.mark)
	require.NoError(d.t, err)
	return lines
}

// vol is the node's volume 0.
func (d *duo) vol() *labVolume { return d.node.Volume(0) }

// kernelWrite writes n bytes of the pattern to the kernel's device, in requests of
// size bytes past its page cache.
func (d *duo) kernelWrite(volume int, offset, patternOffset, n, size int64) {
	d.t.Helper()
	require.NoError(d.t, d.lab.guest.Copy(d.ctx, d.kernel.Volumes[volume].Device(), offset, "/dev/vdc", patternOffset, n, size))
}

// nodeWrite writes n bytes of the pattern to the node's volume.
func (d *duo) nodeWrite(volume uint16, offset, patternOffset, n int64) {
	d.t.Helper()
	_, err := d.node.Volume(volume).WriteAtContext(d.ctx, d.lab.pattern[patternOffset:patternOffset+n], offset)
	require.NoError(d.t, err)
}

// nodeContent and kernelContent read the data area of a side's disk.
func (d *duo) nodeContent(volume int) []byte {
	d.t.Helper()
	b := make([]byte, d.node.Volume(uint16(volume)).Size())
	_, err := d.disks[volume].ReadAt(b, 0)
	require.NoError(d.t, err)
	return b
}

func (d *duo) kernelContent(volume int) []byte {
	d.t.Helper()
	return d.kernelContentOf(volume, int(d.node.Volume(uint16(volume)).Size()))
}

// kernelContentOf is for a node that does not run.
func (d *duo) kernelContentOf(volume, n int) []byte {
	d.t.Helper()
	b, err := os.ReadFile(d.lab.disks[d.opts.at+volume])
	require.NoError(d.t, err)
	return b[:n]
}

// requireSame compares the disks of both sides.
func (d *duo) requireSame() {
	d.t.Helper()
	for i := range d.cfg.Volumes {
		node, kernel := d.nodeContent(i), d.kernelContent(i)
		require.NotEmpty(d.t, node)
		if bytes.Equal(node, kernel) {
			continue
		}
		var differ []int
		for b := 0; b < len(node); b += 4096 {
			end := min(b+4096, len(node))
			if !bytes.Equal(node[b:end], kernel[b:end]) {
				differ = append(differ, b/4096)
			}
		}
		require.Failf(d.t, "the disks differ", "volume %d: %d blocks of 4 KiB: %v", i, len(differ), differ[:min(50, len(differ))])
	}
}

// requireBoth checks that both sides have what a model says.
func (d *duo) requireBoth(model []byte) {
	d.t.Helper()
	d.requireSame()
	require.True(d.t, bytes.Equal(model, d.nodeContent(0)), "the data is not what was written")
}

// labPatience is for one scenario.
const labPatience = 2 * time.Minute

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport/transporttest"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// Random runs of two real nodes: goroutines, locks, queues and timers as a program
// has them, on a network and on disks in memory.
//
//	writers, readers ─► Primary ══ network ══ Secondary       oracle
//	                       │     cuts, fuses      │             what each sector may hold
//	                  disk with a            disk with a
//	                 volatile cache         volatile cache
//
// The fault model: the network may break at any byte, also in a handshake. A node
// may die at any time: its process only, with the disk as it was, or the machine,
// whose disk then keeps, loses or tears (at 512 bytes) each change that no flush
// covered. Both may die at once. A node that comes back has what its disk holds.
//
// The rule for what must survive: an acknowledged write is there at the end, in the
// order of the acknowledgements. Exception: a power cut of the node whose data counts
// that is followed by its return, without a takeover by the other. By DRBD's
// rules it is the source of the resync then, so that what its disk has lost is lost.
// Flush and WriteFUA still hold.
//
// Nobody promotes a node that may lack an acknowledged write, or beside a
// generation that it does not know: that would be a split brain by definition.
//
// Not here: disks that fail or hang (TestDiskFails, TestCloseWithHungDisk), networks
// that stall (TestStalledPeer), split brain (TestSplitBrain).

var (
	randomSeed = flag.Uint64("random.seed", 0, "play only this seed of TestRandomRuns")
	randomRuns = flag.Int("random.runs", 0, "number of runs of TestRandomRuns; with random.seed, of runs of that one")
)

const (
	randomDeadline = 10 * time.Minute // of one run
	randomSteps    = 24
)

func TestRandomRuns(t *testing.T) {
	defer goleak.VerifyNone(t)
	runs := 1000
	if raceEnabled || testing.Short() {
		runs = 100
	}
	if *randomSeed != 0 {
		runs = 1
	}
	if *randomRuns > 0 {
		runs = *randomRuns
	}
	var next atomic.Uint64
	var mu sync.Mutex
	total := randomStats{actions: map[string]int{}}
	t.Run("all", func(t *testing.T) {
		for worker := range runtime.GOMAXPROCS(0) {
			t.Run(strconv.Itoa(worker), func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1); seed <= uint64(runs); seed = next.Add(1) {
					r := playRandom(t, cmp.Or(*randomSeed, seed))
					mu.Lock()
					total.add(r)
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("%d runs, %d writes acknowledged, %d reads checked, %v", runs, total.writes, total.reads, total.actions)
	if runs >= 100 && *randomSeed == 0 && !t.Failed() {
		require.Greater(t, total.writes, 50*runs)
		require.Greater(t, total.reads, 5*runs)
		for i := range randomActions {
			require.NotZero(t, total.actions[randomActions[i].name], randomActions[i].name)
		}
	}
}

// playRandom performs one run in virtual time: what DRBD waits for takes none.
func playRandom(t *testing.T, seed uint64) *randomRun {
	again := fmt.Sprintf("repeat: go test ./replica -run 'TestRandomRuns$' -random.seed %d -random.runs 500", seed)
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("seed %d: %v\n%s", seed, p, again)
			panic(p)
		}
	}()
	r := newRandomRun(seed)
	synctest.Test(t, func(*testing.T) { r.play() })
	if r.err != nil {
		t.Fatalf("seed %d: %v\n%s\n%s", seed, r.err, strings.Join(r.log, "\n"), again)
	}
	return r
}

type randomStats struct {
	writes, reads int
	actions       map[string]int
}

func (s *randomStats) add(r *randomRun) {
	for k, v := range r.actions {
		s.actions[k] += v
	}
	s.writes += r.o.acked
	s.reads += int(r.reads.Load())
}

// randomRun is one run. Its methods run on the run's own goroutine, except where
// they say otherwise; one that fails ends that goroutine.
type randomRun struct {
	seed    uint64
	rng     *rand.Rand
	ctx     context.Context
	net     *transporttest.Network
	nodes   [2]*randomNode
	link    linkState
	owner   *randomNode // whose data counts: the Primary, or the one that may become it
	primary bool        // owner is
	o       *oracle
	w       randomWriters
	reads   atomic.Int64
	actions map[string]int
	log     []string

	mu  sync.Mutex
	err error
}

// linkState is what the network does.
type linkState int

const (
	linkUp    linkState = iota
	linkFused           // it breaks after some more bytes, or has broken
	linkDown
)

// randomNode is one of the two machines.
type randomNode struct {
	index   int
	name    string
	disk    *blockdev.Faulty
	late    *lateDisk // the same, as the node sees it
	cfg     Config
	res     *Resource // nil while it is down
	vol     *Volume
	looking bool // for its peer: not StandAlone
}

func newRandomRun(seed uint64) *randomRun {
	return &randomRun{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 0x72756e)), actions: map[string]int{},
	}
}

// play performs the run.
func (r *randomRun) play() {
	ctx, cancel := context.WithTimeout(context.Background(), randomDeadline)
	defer cancel()
	r.ctx = ctx
	r.w.news = make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.cleanUp()
		r.setUp()
		for range randomSteps {
			r.step()
		}
		r.settle()
	}()
	<-done
}

// report keeps the first error. Any goroutine may call it.
func (r *randomRun) report(err error) {
	r.mu.Lock()
	if r.err == nil {
		r.err = err
	}
	r.mu.Unlock()
}

// must ends the run if err is not nil, or if a writer has reported something.
func (r *randomRun) must(err error, format string, args ...any) {
	if err != nil {
		err = fmt.Errorf(format+": %w", append(args, err)...)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrRefused) {
			err = fmt.Errorf("%w\n%s", err, r.describe())
		}
		r.report(err)
	}
	r.mu.Lock()
	failed := r.err != nil
	r.mu.Unlock()
	if failed {
		runtime.Goexit()
	}
}

func (r *randomRun) logf(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

// setUp makes the disks, opens the nodes, connects them, and makes one Primary.
func (r *randomRun) setUp() {
	r.net = transporttest.NewNetwork(r.seed)
	size := int64(256<<10) << r.rng.IntN(3)
	if r.rng.IntN(8) == 0 {
		size = 9 << 20 // three extents of the activity log
	}
	rate := []int64{4 << 30, 8 << 20, 2 << 20}[r.rng.IntN(3)] // the slow ones are met by faults
	force := r.coin()
	first := r.rng.IntN(2)
	for i, name := range []string{"alpha", "beta"} {
		n := &randomNode{index: i, name: name, disk: blockdev.NewFaulty(blockdev.NewMemory(size))}
		n.late = &lateDisk{Faulty: n.disk, most: time.Duration(r.rng.IntN(3)) * time.Millisecond, rng: rand.New(rand.NewPCG(r.rng.Uint64(), 0))}
		r.nodes[i] = n
		peer := []string{"beta", "alpha"}[i]
		n.cfg = Config{
			Name:    "r0",
			Volumes: []VolumeConfig{{Disk: n.late, Resync: ResyncConfig{PlanAhead: -1, Rate: rate, MinRate: -1}}},
			Peers:   []PeerConfig{{Name: peer, Transport: r.net.Transport(name, peer)}},
		}
		if force && i != first {
			_, err := n.disk.WriteAt(bytes.Repeat([]byte("junk"), 16<<10), 64<<10)
			r.must(err, "fill %s", name)
		}
		r.must(CreateMetadata(Disk{Device: n.disk}, metadata.CreateOptions{}), "create metadata")
		r.must(n.disk.VolatileCache(true), "volatile cache")
	}
	for _, n := range r.nodes {
		r.net.Path(n.name, r.other(n).name).SetDelay(time.Duration(r.rng.IntN(3)) * time.Millisecond)
		r.open(n)
		r.connect(n)
	}
	for _, n := range r.nodes {
		r.must(n.res.WaitConnected(r.ctx), "first connection of %s", n.name)
	}
	r.owner = r.nodes[first]
	r.o = newOracle(r.owner.vol.Size())
	r.logf("%d bytes, resync %d/s, %s first, force %v", r.owner.vol.Size(), rate, r.owner.name, force)
	if force {
		r.must(r.owner.res.Promote(r.ctx, Force()), "promote by force")
	} else {
		r.must(r.owner.vol.NewCurrentUUID(r.ctx, ClearBitmap()), "skip the initial sync")
		r.must(r.owner.res.Promote(r.ctx), "promote")
	}
	r.primary = true
}

// open starts a node with what its disk holds.
func (r *randomRun) open(n *randomNode) {
	cfg := n.cfg
	cfg.Volumes = append([]VolumeConfig{}, cfg.Volumes...)
	res, err := Open(r.ctx, cfg)
	r.must(err, "open %s", n.name)
	n.res, n.vol, n.looking = res, res.Volume(0), false
}

func (r *randomRun) connect(n *randomNode) {
	r.must(n.res.Connect(r.ctx), "connect %s", n.name)
	n.looking = true
}

func (r *randomRun) other(n *randomNode) *randomNode { return r.nodes[1-n.index] }

func (r *randomRun) state(n *randomNode) protocol.State { return n.res.Status().Volumes[0].State }

// both reports whether both nodes run and look for each other.
func (r *randomRun) both() bool {
	for _, n := range r.nodes {
		if n.res == nil || !n.looking {
			return false
		}
	}
	return true
}

// steady reports whether both nodes are connected, with good disks, and nothing is
// going to change that: either of them has every acknowledged write.
func (r *randomRun) steady() bool {
	if !r.both() || r.link != linkUp {
		return false
	}
	for _, n := range r.nodes {
		s := r.state(n)
		if s.Conn != protocol.Connected || s.Disk != protocol.UpToDate || s.PeerDisk != protocol.UpToDate {
			return false
		}
	}
	return true
}

// until waits for a state of a node.
func (r *randomRun) until(n *randomNode, what string, cond func(protocol.State) bool) {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	events := n.res.Events(ctx)
	if cond(r.state(n)) {
		return
	}
	for range events {
		if cond(r.state(n)) {
			return
		}
	}
	r.must(context.Cause(ctx), "%s waits for %s", n.name, what)
}

// apart waits until every running node has noticed that it has no connection. It
// must be impossible to have one.
func (r *randomRun) apart() {
	for _, n := range r.nodes {
		if n.res != nil {
			r.until(n, "the end of the connection", func(s protocol.State) bool {
				return s.Conn == protocol.WFConnection || s.Conn == protocol.StandAlone
			})
		}
	}
}

func (r *randomRun) describe() string {
	var b strings.Builder
	for _, n := range r.nodes {
		if n.res == nil {
			fmt.Fprintf(&b, "%s is down\n", n.name)
			continue
		}
		st := n.res.Status()
		fmt.Fprintf(&b, "%s: %v%v %v %v\n", n.name, st, st.Volumes[0].IDs, st.Volumes[0].Flags, st.Peers[0].StandAloneReason)
	}
	return b.String()
}

// settle ends all faults: the nodes come together, equal, with every write.
func (r *randomRun) settle() {
	r.logf("settle")
	if r.coin() {
		r.stopWriters()
	}
	r.heal(false)
	for _, n := range r.nodes {
		if n.res == nil {
			r.open(n)
		}
		if !n.looking {
			r.connect(n)
		}
	}
	r.sync()
	r.stopWriters()
	if r.coin() {
		r.sync()
	}
	if r.primary {
		r.verify()
	}
	closing := []*randomNode{r.owner, r.other(r.owner)}
	for _, n := range closing {
		r.must(n.res.Close(), "close %s", n.name)
		n.res = nil
	}
	r.compare("after both have closed")
	for i, n := range r.nodes {
		r.must(n.disk.Crash(r.seed+uint64(i)), "power cut")
		n.disk.Restart()
	}
	r.compare("after a power cut of what was closed in order")
}

// sync waits until both nodes say that they are in sync. What the first one says may
// be from before the second one's news.
func (r *randomRun) sync() {
	for i := range 4 {
		n := r.nodes[i%2]
		r.must(n.res.WaitSync(r.ctx), "wait for the sync of %s", n.name)
	}
}

// verify reads the whole volume on the Primary.
func (r *randomRun) verify() {
	buf := make([]byte, 64<<10)
	for off := int64(0); off < r.owner.vol.Size(); off += int64(len(buf)) {
		since := r.o.now()
		n, err := r.owner.vol.ReadAtContext(r.ctx, buf[:min(int64(len(buf)), r.owner.vol.Size()-off)], off)
		r.must(err, "read on %s", r.owner.name)
		r.must(r.o.check(off/metadata.SectorSize, buf[:n], since), "read on %s", r.owner.name)
	}
}

// compare compares the two disks, and what they hold with what they may hold.
func (r *randomRun) compare(when string) {
	size := int64(len(r.o.sectors)) * metadata.SectorSize
	var data [2][]byte
	for i, n := range r.nodes {
		data[i] = make([]byte, size)
		_, err := n.disk.ReadAt(data[i], 0)
		r.must(err, "read the disk of %s", n.name)
	}
	var errs []error
	for i, n := range r.nodes {
		if err := r.o.check(0, data[i], r.o.now()); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", n.name, err))
		}
	}
	r.must(errors.Join(errs...), "%s", when)
	if !bytes.Equal(data[0], data[1]) {
		for at := 0; at < len(data[0]); at += metadata.SectorSize {
			if !bytes.Equal(data[0][at:at+metadata.SectorSize], data[1][at:at+metadata.SectorSize]) {
				r.must(fmt.Errorf("sector %d:%s", at/metadata.SectorSize, r.o.describe(int64(at/metadata.SectorSize))), "%s the disks differ", when)
			}
		}
	}
}

// cleanUp leaves nothing behind, also after a failure.
func (r *randomRun) cleanUp() {
	r.w.halt.Store(true)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for _, n := range r.nodes {
		if n == nil {
			continue
		}
		if n.res != nil {
			if err := n.res.Shutdown(gone); errors.Is(err, ErrHung) {
				r.report(err)
			}
		}
		n.disk.Close()
	}
	r.w.wg.Wait()
	r.net.Close()
}

// lateDisk takes a random time for everything, in virtual time.
type lateDisk struct {
	*blockdev.Faulty
	most time.Duration

	mu  sync.Mutex
	rng *rand.Rand
}

func (d *lateDisk) wait() {
	if d.most == 0 {
		return
	}
	d.mu.Lock()
	t := time.Duration(d.rng.Int64N(int64(d.most)))
	d.mu.Unlock()
	time.Sleep(t)
}

func (d *lateDisk) ReadAt(p []byte, off int64) (int, error) {
	d.wait()
	return d.Faulty.ReadAt(p, off)
}

func (d *lateDisk) WriteAt(p []byte, off int64) (int, error) {
	d.wait()
	return d.Faulty.WriteAt(p, off)
}

func (d *lateDisk) WriteAtFUA(p []byte, off int64) (int, error) {
	d.wait()
	return d.Faulty.WriteAtFUA(p, off)
}

func (d *lateDisk) WriteZeroes(off, n int64, mayUnmap bool) error {
	d.wait()
	return d.Faulty.WriteZeroes(off, n, mayUnmap)
}

func (d *lateDisk) Flush() error {
	d.wait()
	return d.Faulty.Flush()
}

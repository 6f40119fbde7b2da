// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/go-blockmirror/blockmirror/transport/transporttest"
)

// stage is what a scenario runs on: two nodes, P and S, in virtual time.
//
//	P: replica.Resource -- Holder -- transporttest.Network -- Holder -- S
//	   slow -- Faulty -- Memory (data, and metadata if it is separate)
//
// One of them may be something else, a standIn; then all happens in real time.
type stage struct {
	ctx    context.Context
	net    link
	nodes  map[string]*actor
	real   bool            // time is real: waiting is cut short
	allow  map[string]bool // states that the guard lets pass
	model  []byte          // what the volume should hold, by the writes of the script
	writes sync.Mutex      // of them: several can be under way
	vars   map[string]string
	begun  map[string]chan error // commands in the background
	owners *sync.Map             // of generations: what arbiters know
	since  time.Time             // of mark
	trace  []string
	steps  atomic.Int64 // len(trace), for commands that run in the background
}

// actor is a node.
type actor struct {
	name   string
	disk   *blockdev.Faulty
	mem    *blockdev.Memory
	slow   *slowDisk
	cfg    replica.Config
	hold   *transporttest.Holder
	res    *replica.Resource // nil while it is down
	other  standIn           // what plays this node, if no Resource does
	record sync.WaitGroup
	faults []func()

	writers []*writer
	leaves  int // how often the script has sent it to StandAlone

	generation metadata.UUID // that gi remembers

	mu     sync.Mutex
	events []replica.Event
	mark   int // of events, for path and resync
	bytes  int64
}

// slowDisk waits before each request, in virtual time.
type slowDisk struct {
	*blockdev.Faulty
	mu    sync.Mutex
	delay time.Duration
}

func (d *slowDisk) wait() {
	d.mu.Lock()
	t := d.delay
	d.mu.Unlock()
	if t > 0 {
		time.Sleep(t)
	}
}

func (d *slowDisk) ReadAt(p []byte, off int64) (int, error) { d.wait(); return d.Faulty.ReadAt(p, off) }
func (d *slowDisk) WriteAt(p []byte, off int64) (int, error) {
	d.wait()
	return d.Faulty.WriteAt(p, off)
}
func (d *slowDisk) WriteAtFUA(p []byte, off int64) (int, error) {
	d.wait()
	return d.Faulty.WriteAtFUA(p, off)
}

func newStage(ctx context.Context) *stage {
	network := transporttest.NewNetwork(1)
	s := emptyStage(ctx, virtualLink{network})
	for _, name := range []string{"P", "S"} {
		s.add(name, network.Transport(name, other(name)))
	}
	return s
}

// emptyStage has no nodes yet.
func emptyStage(ctx context.Context, l link) *stage {
	return &stage{ctx: ctx, net: l, nodes: map[string]*actor{}, allow: map[string]bool{}, vars: map[string]string{}, begun: map[string]chan error{}, owners: &sync.Map{}}
}

// add puts a node onto the stage.
func (s *stage) add(name string, tr transport.Transport) *actor {
	n := &actor{name: name, hold: transporttest.NewHolder(tr)}
	n.cfg = replica.Config{
		Name:    "r0",
		Volumes: []replica.VolumeConfig{{Resync: replica.ResyncConfig{PlanAhead: -1, Rate: 1 << 30, MinRate: -1}}},
		Peers:   []replica.PeerConfig{{Name: other(name), Transport: n.hold}},
	}
	s.nodes[name] = n
	return n
}

func other(name string) string {
	if name == "P" {
		return "S"
	}
	return "P"
}

// run performs lines until one fails.
func (s *stage) run(lines []line) error {
	for _, l := range lines {
		words := make([]string, len(l.words))
		for i, w := range l.words {
			words[i] = w
			for name, value := range s.vars {
				words[i] = strings.ReplaceAll(words[i], "$"+name, value)
			}
		}
		if words[0] == "repeat" {
			n, err := number(words[1])
			if err != nil {
				return fmt.Errorf("%v: %w", l, err)
			}
			for i := range n {
				s.vars[words[2]] = fmt.Sprint(i)
				if err := s.run(l.body); err != nil {
					return fmt.Errorf("%w (%s = %d)", err, words[2], i)
				}
			}
			delete(s.vars, words[2])
			continue
		}
		s.trace = append(s.trace, strings.Join(words, " "))
		s.steps.Store(int64(len(s.trace)))
		if err := s.do(words); err != nil {
			return fmt.Errorf("%v: %w", line{number: l.number, words: words}, err)
		}
		if err := s.guard(); err != nil {
			return fmt.Errorf("%v: %w", line{number: l.number, words: words}, err)
		}
	}
	return nil
}

func (s *stage) do(words []string) error {
	v, ok := verbs[words[0]]
	if !ok {
		return fmt.Errorf("there is no command %q", words[0])
	}
	a := &args{words: words[1:]}
	if n := s.playedByOther(words); n != nil {
		return n.other.perform(s, words[0], &args{words: words[2:]})
	}
	if err := v(s, a); err != nil {
		return err
	}
	return a.end()
}

// node takes the name of a node.
func (s *stage) node(a *args) *actor {
	name := a.next()
	n := s.nodes[name]
	if n == nil {
		a.fail("there is no node %q", name)
		n = s.nodes["P"]
	}
	return n
}

// up opens a node with what its disk holds, and records its events.
func (n *actor) up(ctx context.Context) error {
	if n.res != nil {
		return fmt.Errorf("%s is up", n.name)
	}
	res, err := replica.Open(ctx, n.cfg)
	if err != nil {
		return err
	}
	n.res = res
	events := res.Events(context.Background())
	n.record.Go(func() {
		for ev := range events {
			n.mu.Lock()
			n.events = append(n.events, ev)
			n.mu.Unlock()
		}
	})
	return nil
}

func (n *actor) down() error {
	if n.res == nil {
		return fmt.Errorf("%s is down", n.name)
	}
	n.leaves++
	err := n.res.Close()
	n.record.Wait()
	n.res = nil
	return err
}

func (n *actor) vol() *replica.Volume { return n.res.Volume(0) }

// close ends everything.
func (s *stage) close() error {
	var errs []error
	for _, n := range s.nodes {
		if n.other != nil {
			continue
		}
		for _, f := range n.faults {
			f()
		}
		n.hold.Release()
		for _, w := range n.writers {
			w.halt.Store(true)
		}
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for _, n := range s.nodes {
		if n.res != nil {
			if err := n.res.Shutdown(gone); errors.Is(err, replica.ErrHung) {
				errs = append(errs, fmt.Errorf("close %s: %w", n.name, err))
			}
			n.record.Wait()
		}
		for _, w := range n.writers {
			w.wg.Wait()
		}
		if n.disk != nil {
			errs = append(errs, n.disk.Close())
		}
	}
	return errors.Join(append(errs, s.net.Close())...)
}

// forbidden is what must not happen on the way, unless a script allows it: broken
// connections. Nor may a node go StandAlone when nobody asked for it ("refused"), or copy
// everything where the bitmap would do ("full").
var forbidden = map[string]bool{"BrokenPipe": true, "NetworkFailure": true, "ProtocolError": true, "Timeout": true, "Unconnected": false}

func (s *stage) guard() error {
	for _, n := range s.nodes {
		if n.other != nil {
			if err := n.other.guard(s.allow); err != nil {
				return err
			}
			continue
		}
		n.mu.Lock()
		events := n.events
		n.mu.Unlock()
		broken, alone := 0, 0
		for _, ev := range events {
			bad := ""
			switch {
			case ev.Kind == replica.EventVerdict && ev.Decision != nil && ev.Decision.FullSync:
				bad = "full"
			case ev.Kind == replica.EventState && ev.Volume == 0 && ev.New.Conn == protocol.StandAlone && ev.Old.Conn != protocol.StandAlone:
				if alone++; alone > n.leaves && !s.allow["refused"] {
					return fmt.Errorf("%s goes StandAlone: %v", n.name, ev)
				}
			case ev.Kind == replica.EventState && ev.Old.Conn != ev.New.Conn:
				// Before the peer has said a word no connection breaks that counts: the
				// emulated network of a kernel accepts for it, and finds out later.
				early := s.real && ev.Old.Conn == protocol.WFConnection
				if name := ev.New.Conn.String(); forbidden[name] && !early {
					bad = name
				}
			case ev.Kind == replica.EventLagged:
				return fmt.Errorf("%s: events were lost", n.name)
			case ev.Kind == replica.EventRefused:
				bad = "refused"
			}
			if bad == "" || s.allow[bad] {
				continue
			}
			broken++
			lost := bad == "BrokenPipe" || bad == "NetworkFailure"
			if peer := s.nodes[other(n.name)]; !lost || peer == nil || peer.other == nil || !peer.other.gaveUp(broken) {
				return fmt.Errorf("%s must not happen on %s: %v", bad, n.name, ev)
			}
		}
	}
	return nil
}

// until waits for a condition of a node. It looks at every event, and from time to time.
func (n *actor) until(ctx context.Context, cond func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute) // virtual, or the stage ends before
	defer cancel()
	for {
		if ok, err := cond(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it did not come so; %s is\n%v", n.name, n.res.Status())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// passed are the values that a field of the state went through since the mark.
func (n *actor) passed(field func(protocol.State) string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []string
	for _, ev := range n.events[n.mark:] {
		if ev.Kind != replica.EventState {
			continue
		}
		if v := field(ev.New); v != field(ev.Old) {
			list = append(list, v)
		}
	}
	return list
}

// subsequence reports whether all of want come in have, in this order.
func subsequence(want, have []string) bool {
	for _, h := range have {
		if len(want) > 0 && want[0] == h {
			want = want[1:]
		}
	}
	return len(want) == 0
}

// fields of a state, by the names that scripts use.
var fields = map[string]func(protocol.State) string{
	"conn": func(s protocol.State) string { return s.Conn.String() },
	"role": func(s protocol.State) string { return s.Role.String() },
	"peer": func(s protocol.State) string { return s.Peer.String() },
	"disk": func(s protocol.State) string { return s.Disk.String() },
	"pdsk": func(s protocol.State) string { return s.PeerDisk.String() },
	"susp": func(s protocol.State) string { return fmt.Sprint(s.Susp || s.SuspNoData || s.SuspFencing) },
}

// counters of a volume, by name.
var counters = map[string]func(replica.VolumeStatus) int64{
	"oos":      func(v replica.VolumeStatus) int64 { return v.OutOfSync },
	"pending":  func(v replica.VolumeStatus) int64 { return int64(v.Pending) },
	"unacked":  func(v replica.VolumeStatus) int64 { return int64(v.Unacked) },
	"local":    func(v replica.VolumeStatus) int64 { return int64(v.LocalPending) },
	"app":      func(v replica.VolumeStatus) int64 { return int64(v.AppPending) },
	"hung":     func(v replica.VolumeStatus) int64 { return int64(v.Hung) },
	"size":     func(v replica.VolumeStatus) int64 { return v.Size },
	"sent":     func(v replica.VolumeStatus) int64 { return v.Sent },
	"received": func(v replica.VolumeStatus) int64 { return v.Received },
	"read":     func(v replica.VolumeStatus) int64 { return v.Read },
	"written":  func(v replica.VolumeStatus) int64 { return v.Written },
	"al":       func(v replica.VolumeStatus) int64 { return int64(v.ALWrites) },
	"bm":       func(v replica.VolumeStatus) int64 { return int64(v.BitmapWrites) },
	"done":     func(v replica.VolumeStatus) int64 { return percentDone(v) },
}

// percentDone is how much of a resync or verify is done, 100 when there is none.
func percentDone(v replica.VolumeStatus) int64 {
	if v.Resync == nil {
		return 100
	}
	return int64(v.Resync.Percent())
}

var condition = regexp.MustCompile(`^([\w-]+)(<=|>=|!=|=|<|>)(.+)$`)

// holds reports whether a node satisfies all conditions, as conn=Connected oos=4K.
// Alternatives are separated by |.
func (n *actor) holds(conditions []string) (bool, error) {
	if n.res == nil {
		return false, fmt.Errorf("%s is down", n.name)
	}
	st := n.res.Status()
	v, p := st.Volumes[0], st.Peers[0]
	all := true
	for _, c := range conditions {
		m := condition.FindStringSubmatch(c)
		if m == nil {
			return false, fmt.Errorf("%q is no condition", c)
		}
		if f := fields[m[1]]; f != nil {
			in := slices.Contains(strings.Split(m[3], "|"), f(v.State))
			all = all && in == (m[2] == "=")
			continue
		}
		count := counters[m[1]]
		switch {
		case m[1] == "ap-in-flight":
			count = func(replica.VolumeStatus) int64 { return p.InFlight }
		case m[1] == "rs-in-flight":
			count = func(replica.VolumeStatus) int64 { return p.ResyncInFlight }
		case count == nil:
			return false, fmt.Errorf("%q is neither a state nor a counter", m[1])
		}
		want, err := number(m[3])
		if err != nil {
			return false, err
		}
		have := count(v)
		all = all && map[string]bool{"=": have == want, "!=": have != want, "<": have < want, ">": have > want, "<=": have <= want, ">=": have >= want}[m[2]]
	}
	return all, nil
}

// content is the data area of a node's disk.
func (n *actor) content() ([]byte, error) {
	if n.other != nil {
		return n.other.content()
	}
	l, err := metadata.NewLayout(metadata.V08, metadata.Internal(), n.disk.Size(), metadata.Geometry{})
	if err != nil {
		return nil, err
	}
	b := make([]byte, l.UsableSectors*metadata.SectorSize)
	_, err = n.mem.ReadAt(b, 0)
	return b, err
}

// wrote notes what the volume should hold.
func (s *stage) wrote(off int64, data []byte) {
	s.writes.Lock()
	defer s.writes.Unlock()
	copy(s.model[off:], data)
}

// same compares the disks of both nodes, with each other and with the model.
func (s *stage) same() error {
	p, err := s.nodes["P"].content()
	if err != nil {
		return err
	}
	q, err := s.nodes["S"].content()
	if err != nil {
		return err
	}
	if i := firstDifference(p, q); i >= 0 {
		return fmt.Errorf("the disks differ at byte %d", i)
	}
	if i := firstDifference(p, s.model); i >= 0 {
		return fmt.Errorf("the disks are equal, but hold at byte %d what nobody wrote last", i)
	}
	return nil
}

// firstDifference is the first sector that differs, or -1.
func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := 0; i < min(len(a), len(b)); i += 512 {
		if !bytes.Equal(a[i:min(i+512, len(a))], b[i:min(i+512, len(b))]) {
			return i
		}
	}
	return min(len(a), len(b))
}

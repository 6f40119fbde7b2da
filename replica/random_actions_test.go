// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// randomActions are what may happen between writes.
var randomActions = []struct {
	name   string
	weight int
	can    func(*randomRun) bool
	do     func(*randomRun)
}{
	{"cut", 2, func(r *randomRun) bool { return r.link == linkUp }, (*randomRun).cut},
	{"fuse", 3, func(r *randomRun) bool { return r.link == linkUp }, func(r *randomRun) { r.fuse(64 << 10) }},
	{"heal", 10, func(r *randomRun) bool { return r.link != linkUp }, func(r *randomRun) { r.heal(r.rng.IntN(4) == 0) }},
	{"flap", 4, (*randomRun).steady, (*randomRun).flap},
	{"stall", 2, func(r *randomRun) bool { return r.link == linkUp }, (*randomRun).stall},
	{"kill the Secondary", 3, func(r *randomRun) bool { return r.other(r.owner).res != nil }, (*randomRun).killSecondary},
	{"takeover", 6, (*randomRun).steady, (*randomRun).takeOver},
	{"kill the Primary", 2, func(r *randomRun) bool { return r.owner.res != nil }, (*randomRun).killPrimary},
	{"kill both", 1, func(r *randomRun) bool { return r.nodes[0].res != nil && r.nodes[1].res != nil }, (*randomRun).killBoth},
	{"restart", 12, func(r *randomRun) bool { return r.nodes[0].res == nil || r.nodes[1].res == nil }, (*randomRun).restart},
	{"promote", 12, func(r *randomRun) bool { return r.owner.res != nil && !r.primary }, (*randomRun).promote},
	{"switch", 5, func(r *randomRun) bool { return r.primary && r.steady() }, (*randomRun).switchRoles},
	{"switch early", 8, (*randomRun).feeding, (*randomRun).switchEarly},
	{"invalidate", 1, (*randomRun).steady, (*randomRun).invalidate},
	{"reattach", 3, (*randomRun).steady, (*randomRun).reattach},
	{"disconnect", 2, func(r *randomRun) bool { return len(r.looking(true)) > 0 }, (*randomRun).disconnect},
	{"connect", 12, func(r *randomRun) bool { return len(r.looking(false)) > 0 }, (*randomRun).connectOne},
	{"sync", 8, func(r *randomRun) bool { return r.both() && r.link == linkUp }, (*randomRun).sync},
}

// step lets the writers write a little, then does one thing that can be done now.
func (r *randomRun) step() {
	if r.primary && r.rng.IntN(4) > 0 {
		r.startWriters()
	}
	r.must(r.w.wait(r.ctx, r.rng.IntN(25)), "wait for writes")
	if r.rng.IntN(4) == 0 {
		r.stopWriters()
	}
	var weights [64]int
	sum := 0
	for i, a := range randomActions {
		if a.can(r) {
			weights[i] = a.weight
			sum += a.weight
		}
	}
	pick := r.rng.IntN(sum)
	for i, a := range randomActions {
		if pick -= weights[i]; pick < 0 && weights[i] > 0 {
			r.logf("%s", a.name)
			r.actions[a.name]++
			a.do(r)
			return
		}
	}
}

// looking returns the running nodes that do, or do not, look for their peer.
func (r *randomRun) looking(yes bool) (list []*randomNode) {
	for _, n := range r.nodes {
		if n.res != nil && n.looking == yes {
			list = append(list, n)
		}
	}
	return list
}

func (r *randomRun) cut() {
	r.net.Cut("alpha", "beta")
	r.link = linkDown
	r.apart()
}

// fuse lets the network break after so many bytes at most.
func (r *randomRun) fuse(most int) {
	from := r.rng.IntN(2)
	bytes := 1 + r.rng.IntN(most>>r.rng.IntN(8))
	r.logf("  after %d bytes from %s", bytes, r.nodes[from].name)
	r.link = linkFused
	r.net.Path(r.nodes[from].name, r.nodes[1-from].name).CutAfter(int64(bytes))
}

// heal makes the network whole, or nearly: again breaks the next handshakes.
func (r *randomRun) heal(again bool) {
	if r.link == linkFused {
		r.cut() // it may or may not have broken
	}
	r.net.Heal("alpha", "beta")
	r.link = linkUp
	if again {
		r.fuse(4096)
	}
}

// flap breaks the connection, but not the network.
func (r *randomRun) flap() {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	a, b := r.nodes[0].res.Events(ctx), r.nodes[1].res.Events(ctx)
	r.net.Reset("alpha", "beta")
	for _, events := range []func(func(Event) bool){a, b} {
		noticed := false
		for ev := range events {
			if noticed = ev.Kind == EventState && ev.New.Conn < protocol.Connected; noticed {
				break
			}
		}
		if !noticed {
			r.must(ctx.Err(), "wait for the end of the connection")
		}
	}
}

// stall holds what the nodes send for a while, for long enough to be noticed or not.
func (r *randomRun) stall() {
	from := r.rng.IntN(2)
	path := r.net.Path(r.nodes[from].name, r.nodes[1-from].name)
	path.Stall()
	most := 100 * time.Millisecond
	if r.coin() {
		most = 15 * time.Second // ping-int and ping-timeout are less
	}
	time.Sleep(time.Duration(r.rng.Int64N(int64(most))))
	path.Resume()
}

// kill ends nodes at one moment, as seen from everywhere: no answer, packet or
// change of a disk comes after it.
func (r *randomRun) kill(power bool, victims ...*randomNode) {
	for _, n := range victims {
		r.o.die(n.index)
	}
	there, back := r.net.Path("alpha", "beta"), r.net.Path("beta", "alpha")
	there.Stall()
	back.Stall()
	var dead []func()
	for _, n := range victims {
		r.logf("  %s, power %v", n.name, power)
		if power {
			r.must(n.disk.Crash(r.rng.Uint64()), "crash")
			dead = append(dead, n.disk.Restart)
		} else {
			dead = append(dead, n.disk.Inject(blockdev.Fault{Err: blockdev.ErrPowerLost}))
		}
	}
	r.net.Cut("alpha", "beta")
	gone, cancel := context.WithCancel(r.ctx)
	cancel()
	for i, n := range victims {
		if err := n.res.Shutdown(gone); errors.Is(err, ErrHung) {
			r.must(err, "the end of %s", n.name)
		}
		n.res, n.looking = nil, false
		dead[i]()
		if n == r.owner {
			r.stopWriters()
			r.primary = false
		}
	}
	r.apart()
	if r.link == linkDown {
		there.Resume()
		back.Resume()
		return
	}
	r.net.Heal("alpha", "beta")
	r.link = linkUp
}

func (r *randomRun) coin() bool { return r.rng.IntN(2) == 0 }

func (r *randomRun) killSecondary() { r.kill(r.coin(), r.other(r.owner)) }

// takeOver kills the Primary, whose peer has all of its data and takes over.
func (r *randomRun) takeOver() {
	r.kill(r.coin(), r.owner)
	r.owner = r.other(r.owner)
	r.promote()
}

// killPrimary kills the Primary, which is to come back.
func (r *randomRun) killPrimary() {
	power := r.coin()
	r.kill(power, r.owner)
	if power {
		r.o.powerCut(r.owner.index)
	}
}

func (r *randomRun) killBoth() {
	power := r.coin()
	r.kill(power, r.nodes[0], r.nodes[1])
	if power {
		r.o.powerCut(r.owner.index)
	}
}

// restart starts a node that is down.
func (r *randomRun) restart() {
	n := r.nodes[r.rng.IntN(2)]
	if n.res != nil {
		n = r.other(n)
	}
	r.logf("  %s", n.name)
	r.open(n)
	if r.rng.IntN(4) > 0 {
		r.connect(n)
	}
}

func (r *randomRun) promote() {
	r.must(r.owner.res.Promote(r.ctx), "promote %s", r.owner.name)
	r.primary = true
}

// switchRoles makes the other node Primary, maybe while somebody writes.
func (r *randomRun) switchRoles() {
	r.w.ending.Store(true)
	r.must(r.owner.res.Demote(r.ctx), "demote %s", r.owner.name)
	r.primary = false
	if r.rng.IntN(3) == 0 {
		return // to see what happens next
	}
	r.stopWriters()
	r.owner = r.other(r.owner)
	r.promote()
}

// feeding reports whether the Primary is filling its peer.
func (r *randomRun) feeding() bool {
	return r.primary && r.both() && r.link == linkUp &&
		r.state(r.owner).Conn == protocol.SyncSource && r.state(r.other(r.owner)).Conn == protocol.SyncTarget
}

// switchEarly makes the target of a resync Primary. It needs its peer for what it
// lacks, so nothing else happens until it lacks nothing.
func (r *randomRun) switchEarly() {
	r.w.ending.Store(true)
	r.must(r.owner.res.Demote(r.ctx), "demote %s", r.owner.name)
	r.stopWriters()
	r.owner = r.other(r.owner)
	r.promote()
	r.startWriters()
	r.sync()
}

// invalidate gives up the copy of the Secondary.
func (r *randomRun) invalidate() {
	n := r.other(r.owner)
	r.must(n.vol.Invalidate(r.ctx), "invalidate %s", n.name)
}

// reattach takes a disk away for a while.
func (r *randomRun) reattach() {
	n := r.nodes[r.rng.IntN(2)]
	r.logf("  %s", n.name)
	r.must(n.vol.Detach(r.ctx), "detach %s", n.name)
	r.must(r.w.wait(r.ctx, r.rng.IntN(25)), "wait for writes")
	r.must(n.vol.Attach(r.ctx, Disk{}), "attach %s", n.name)
	if n == r.owner {
		r.sync() // until then its peer's copy counts
	}
}

func (r *randomRun) disconnect() {
	list := r.looking(true)
	n := list[r.rng.IntN(len(list))]
	var opts []DisconnectOption
	if r.rng.IntN(3) == 0 {
		opts = append(opts, Force())
	}
	r.logf("  %s, %d options", n.name, len(opts))
	r.must(n.res.Disconnect(r.ctx, opts...), "disconnect %s", n.name)
	n.looking = false
	r.apart()
}

func (r *randomRun) connectOne() {
	list := r.looking(false)
	n := list[r.rng.IntN(len(list))]
	r.logf("  %s", n.name)
	r.connect(n)
}

// randomWriters are the goroutines that use the Primary.
type randomWriters struct {
	wg      sync.WaitGroup
	running bool
	halt    atomic.Bool
	ending  atomic.Bool // the node will not be Primary any more

	mu   sync.Mutex
	done int  // requests
	end  bool // one of them has ended
	news chan struct{}
}

func (r *randomRun) startWriters() {
	if r.w.running {
		return
	}
	r.w.running, r.w.end = true, false
	r.w.halt.Store(false)
	r.w.ending.Store(false)
	n := r.owner
	u := r.o.user(n.index)
	for range 1 + r.rng.IntN(4) {
		rng := rand.New(rand.NewPCG(r.rng.Uint64(), 0))
		vol := n.vol
		r.w.wg.Go(func() {
			for !r.w.halt.Load() {
				err := r.request(u, vol, rng)
				switch {
				case err == nil:
					r.w.count()
					if rng.IntN(4) == 0 {
						time.Sleep(128 * time.Microsecond << rng.IntN(11)) // virtual: time must pass
					}
					continue
				case !r.o.alive(u):
				case r.w.ending.Load() && errors.Is(err, ErrNotPrimary):
				default:
					r.report(fmt.Errorf("on %s: %w", n.name, err))
				}
				break
			}
			r.w.over()
		})
	}
}

// stopWriters waits until the requests that have begun have ended.
func (r *randomRun) stopWriters() {
	r.w.halt.Store(true)
	r.w.wg.Wait()
	r.w.running = false
	r.must(nil, "")
}

// count counts a request.
func (w *randomWriters) count() {
	w.mu.Lock()
	w.done++
	w.mu.Unlock()
	w.wake()
}

// over notes that a writer has ended.
func (w *randomWriters) over() {
	w.mu.Lock()
	w.end = true
	w.mu.Unlock()
	w.wake()
}

func (w *randomWriters) wake() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// wait waits for n more requests.
func (w *randomWriters) wait(ctx context.Context, n int) error {
	if !w.running {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for until := w.done + n; w.done < until && !w.end; {
		w.mu.Unlock()
		select {
		case <-w.news:
			w.mu.Lock()
		case <-ctx.Done():
			w.mu.Lock()
			return ctx.Err()
		}
	}
	return nil
}

// request performs one random request on the Primary.
func (r *randomRun) request(u user, vol *Volume, rng *rand.Rand) error {
	sectors := int64(len(r.o.sectors))
	length := 1 + rng.Int64N(16)
	if rng.IntN(12) == 0 {
		length = 1 + rng.Int64N(256)
	}
	from := rng.Int64N(sectors - length)
	if rng.IntN(3) == 0 {
		from = rng.Int64N(64) // a hot spot
	}
	buf := make([]byte, length*metadata.SectorSize)
	off := from * metadata.SectorSize
	switch kind := rng.IntN(64); {
	case kind < 8:
		since := r.o.now()
		if _, err := vol.ReadAtContext(r.ctx, buf, off); err != nil {
			return err
		}
		r.reads.Add(1)
		return r.o.check(from, buf, since)
	case kind < 12:
		return r.o.flush(u, func() error { return vol.Flush(r.ctx) })
	case kind < 15:
		w := r.o.begin(u, from, from+length, nil)
		err := vol.WriteZeroes(r.ctx, off, int64(len(buf)))
		r.o.end(w, err == nil, false)
		return err
	case kind < 20:
		w := r.o.begin(u, from, from+length, buf)
		_, err := vol.WriteFUA(r.ctx, buf, off)
		r.o.end(w, err == nil, true)
		return err
	}
	w := r.o.begin(u, from, from+length, buf)
	_, err := vol.WriteAtContext(r.ctx, buf, off)
	r.o.end(w, err == nil, false)
	return err
}

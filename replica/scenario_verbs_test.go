// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// verbs are the commands of scenarios.
var verbs map[string]func(*stage, *args) error

func init() {
	verbs = map[string]func(*stage, *args) error{
		"disks": verbDisks, "config": verbConfig,
		"up": onNode((*actor).up), "down": onNode(func(n *actor, _ context.Context) error { return n.down() }), "crash": verbCrash,
		"connect": verbConnect, "disconnect": verbDisconnect, "promote": verbPromote,
		"demote":            onResource((*replica.Resource).Demote),
		"suspend-io":        onResource((*replica.Resource).SuspendIO),
		"resume-io":         onResource((*replica.Resource).ResumeIO),
		"wait-sync":         onResource((*replica.Resource).WaitSync),
		"wait-connect":      onResource((*replica.Resource).WaitConnected),
		"invalidate":        onVolume((*replica.Volume).Invalidate),
		"invalidate-remote": onVolume((*replica.Volume).InvalidateRemote),
		"outdate":           onVolume((*replica.Volume).Outdate),
		"pause-sync":        onVolume((*replica.Volume).PauseSync),
		"resume-sync":       onVolume((*replica.Volume).ResumeSync),
		"flush":             onVolume((*replica.Volume).Flush),
		"detach":            onVolume(func(v *replica.Volume, ctx context.Context) error { return v.Detach(ctx) }),
		"attach":            onVolume(func(v *replica.Volume, ctx context.Context) error { return v.Attach(ctx, replica.Disk{}) }),
		"skip-sync": onVolume(func(v *replica.Volume, ctx context.Context) error {
			return v.NewCurrentUUID(ctx, replica.ClearBitmap())
		}),
		"new-current-uuid": onVolume(func(v *replica.Volume, ctx context.Context) error { return v.NewCurrentUUID(ctx) }),
		"write":            verbWrite, "writes": verbWrites, "zero": verbZero, "discard": verbDiscard, "read": verbRead, "writer": verbWriter, "stop": verbStop, "behind": verbBehind,
		"wait": verbWait, "is": verbIs, "fails": verbFails, "mark": verbMark, "path": verbPath, "not": verbNot, "resync": verbResync, "travelled": verbTravelled,
		"gi":     verbGI,
		"verify": verbVerify, "begin": verbBegin, "busy": verbBusy, "finish": verbFinish,
		"same":    func(s *stage, _ *args) error { return s.same() },
		"forget":  verbForget,
		"cut":     func(s *stage, _ *args) error { s.net.cut(); return nil },
		"heal":    func(s *stage, _ *args) error { s.net.heal(); return nil },
		"reset":   func(s *stage, _ *args) error { s.net.reset(); return nil },
		"stall":   func(s *stage, a *args) error { s.net.stall(s.node(a).name); return nil },
		"unstall": func(s *stage, a *args) error { s.net.resume(s.node(a).name); return nil },
		"delay":   verbDelay, "bandwidth": verbBandwidth, "hold": verbHold, "release": verbRelease,
		"create-md": verbCreateMD,
		"fault":     verbFault, "freeze": verbFreeze, "mend": verbMend, "slow": verbSlow,
		"sleep": verbSleep, "took": verbTook, "ours": verbOurs,
		"allow": func(s *stage, a *args) error {
			for _, w := range a.rest() {
				s.allow[w] = true
			}
			return nil
		},
	}
}

func onNode(do func(*actor, context.Context) error) func(*stage, *args) error {
	return func(s *stage, a *args) error {
		n := s.node(a)
		return do(n, s.ctx)
	}
}

func onResource(do func(*replica.Resource, context.Context) error) func(*stage, *args) error {
	return onNode(func(n *actor, ctx context.Context) error {
		if n.res == nil {
			return fmt.Errorf("%s is down", n.name)
		}
		return do(n.res, ctx)
	})
}

func onVolume(do func(*replica.Volume, context.Context) error) func(*stage, *args) error {
	return onResource(func(r *replica.Resource, ctx context.Context) error { return do(r.Volume(0), ctx) })
}

// verbDisks: disks SIZE [fresh|synced]. Makes both disks; synced (the default) is as
// after a skipped initial sync.
func verbDisks(s *stage, a *args) error {
	size := a.number()
	fresh := a.flag("fresh")
	for _, n := range s.nodes {
		if n.other != nil {
			if err := n.other.disks(size, fresh); err != nil {
				return err
			}
			continue
		}
		n.mem = blockdev.NewMemory(size)
		n.disk = blockdev.NewFaulty(n.mem)
		n.slow = &slowDisk{Faulty: n.disk}
		n.cfg.Volumes[0].Disk = n.slow
		l, err := metadata.NewLayout(metadata.V08, metadata.Internal(), size, metadata.Geometry{})
		if err != nil {
			return err
		}
		opts := metadata.CreateOptions{}
		if !fresh {
			opts = metadata.CreateOptions{EffectiveSize: l.UsableSectors, Current: 0x0123456789abcdee, Flags: metadata.Consistent | metadata.WasUpToDate}
		}
		if err := replica.CreateMetadata(replica.Disk{Device: n.disk}, opts); err != nil {
			return err
		}
		s.model = make([]byte, l.UsableSectors*metadata.SectorSize)
	}
	return nil
}

// verbCreateMD: create-md NODE. Its disk, which is not in use, gets fresh metadata.
func verbCreateMD(s *stage, a *args) error {
	return replica.CreateMetadata(replica.Disk{Device: s.node(a).disk}, metadata.CreateOptions{}, replica.Force())
}

// verbConfig: config [P|S] NAME=VALUE ..., before up.
func verbConfig(s *stage, a *args) error {
	nodes := []*actor{s.nodes["P"], s.nodes["S"]}
	if a.more() && s.nodes[a.words[0]] != nil {
		nodes = []*actor{s.node(a)}
	}
	for _, w := range a.rest() {
		name, value, _ := strings.Cut(w, "=")
		set := settings[name]
		if set == nil {
			return fmt.Errorf("there is no setting %q", name)
		}
		for _, n := range nodes {
			if n.other != nil {
				if err := n.other.config(name, value); err != nil {
					return fmt.Errorf("%s: %w", w, err)
				}
				continue
			}
			if err := set(&option{s, n, &n.cfg, &n.cfg.Volumes[0], &n.cfg.Peers[0]}, value); err != nil {
				return fmt.Errorf("%s: %w", w, err)
			}
		}
	}
	return nil
}

// verbCrash: crash NODE [power]. The node ends without a word; with power what its disk
// had not flushed may be lost.
func verbCrash(s *stage, a *args) error {
	n := s.node(a)
	if n.res == nil {
		return fmt.Errorf("%s is down", n.name)
	}
	n.leaves++
	remove := n.disk.Inject(blockdev.Fault{Err: blockdev.ErrPowerLost})
	s.net.cut()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if err := n.res.Shutdown(gone); errors.Is(err, replica.ErrHung) {
		return err
	}
	n.record.Wait()
	n.res = nil
	remove()
	s.allow["BrokenPipe"], s.allow["NetworkFailure"] = true, true
	s.net.heal()
	return nil
}

func verbConnect(s *stage, a *args) error {
	n := s.node(a)
	var opts []replica.ConnectOption
	if a.flag("discard-my-data") {
		opts = append(opts, replica.DiscardMyData())
	}
	if a.flag("tentative") {
		opts = append(opts, replica.Tentative())
	}
	return n.res.Connect(s.ctx, opts...)
}

func verbDisconnect(s *stage, a *args) error {
	n := s.node(a)
	n.leaves++
	if a.flag("force") {
		return n.res.Disconnect(s.ctx, replica.Force())
	}
	return n.res.Disconnect(s.ctx)
}

func verbPromote(s *stage, a *args) error {
	n := s.node(a)
	if a.flag("force") {
		return n.res.Promote(s.ctx, replica.Force())
	}
	return n.res.Promote(s.ctx)
}

// pattern is the data of a write: its sectors differ from those of any other.
func pattern(seed, off, n int64) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(uint64(seed), uint64(off)))
	for i := 0; i < len(b); i += 8 {
		v := rng.Uint64()
		for j := range min(8, len(b)-i) {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}

// verbWrite: write NODE OFFSET LENGTH [SEED] [fua].
func verbWrite(s *stage, a *args) error {
	n := s.node(a)
	off, length := a.number(), a.number()
	fua := a.flag("fua")
	data := pattern(a.numberOr(s.steps.Load()), off, length)
	if a.err != nil {
		return a.err
	}
	var err error
	if fua {
		_, err = n.vol().WriteFUA(s.ctx, data, off)
	} else {
		_, err = n.vol().WriteAtContext(s.ctx, data, off)
	}
	if err == nil {
		s.wrote(off, data)
	}
	return err
}

// verbWrites: writes NODE COUNT LENGTH STRIDE [OFFSET]. COUNT writes at once, STRIDE apart.
func verbWrites(s *stage, a *args) error {
	n := s.node(a)
	count, length, stride, from := a.number(), a.number(), a.number(), a.numberOr(0)
	if a.err != nil {
		return a.err
	}
	errs := make([]error, count)
	var wg sync.WaitGroup
	for i := range count {
		off := from + i*stride
		data := pattern(s.steps.Load(), off, length)
		s.wrote(off, data)
		wg.Go(func() { _, errs[i] = n.vol().WriteAtContext(s.ctx, data, off) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func verbZero(s *stage, a *args) error {
	n := s.node(a)
	off, length := a.number(), a.number()
	var opts []replica.ZeroOption
	if a.flag("unmap") {
		opts = append(opts, replica.MayUnmap())
	}
	if a.err != nil {
		return a.err
	}
	clear(s.model[off : off+length])
	return n.vol().WriteZeroes(s.ctx, off, length, opts...)
}

// verbDiscard: discard NODE OFFSET LENGTH. Memory disks read zeroes then.
func verbDiscard(s *stage, a *args) error {
	n := s.node(a)
	off, length := a.number(), a.number()
	if a.err != nil {
		return a.err
	}
	clear(s.model[off : off+length])
	return n.vol().Discard(s.ctx, off, length)
}

// verbRead: read NODE OFFSET LENGTH. Compares with what was written.
func verbRead(s *stage, a *args) error {
	n := s.node(a)
	off, length := a.number(), a.number()
	if a.err != nil {
		return a.err
	}
	b := make([]byte, length)
	if _, err := n.vol().ReadAtContext(s.ctx, b, off); err != nil {
		return err
	}
	if !bytes.Equal(b, s.model[off:off+length]) {
		return errors.New("it is not what was written")
	}
	return nil
}

// writer writes in the background.
type writer struct {
	halt atomic.Bool
	wg   sync.WaitGroup
	err  error
	n    int
}

// verbWriter: writer NODE FROM TO LENGTH PAUSE. Writes there at random until stop. Several
// of them run side by side, each in a place of its own.
func verbWriter(s *stage, a *args) error {
	n := s.node(a)
	from, to, length, pause := a.number(), a.number(), a.number(), a.duration()
	if a.err != nil {
		return a.err
	}
	w := &writer{}
	n.writers = append(n.writers, w)
	vol := n.vol()
	rng := rand.New(rand.NewPCG(uint64(s.steps.Load()), 0))
	w.wg.Go(func() {
		for !w.halt.Load() && w.err == nil {
			off := from + rng.Int64N((to-from-length)/512+1)*512
			data := pattern(rng.Int64(), off, length)
			s.wrote(off, data) // nobody looks before stop
			_, w.err = vol.WriteAtContext(s.ctx, data, off)
			w.n++
			time.Sleep(pause)
		}
	})
	return nil
}

// verbStop: stop NODE. Ends its writers, all of which must have written, without an error.
func verbStop(s *stage, a *args) error {
	n := s.node(a)
	writers := n.writers
	if len(writers) == 0 {
		return errors.New("it does not write")
	}
	n.writers = nil
	for _, w := range writers {
		w.halt.Store(true)
	}
	var errs []error
	for _, w := range writers {
		w.wg.Wait()
		if errs = append(errs, w.err); w.err == nil && w.n == 0 {
			errs = append(errs, errors.New("it has written nothing"))
		}
	}
	return errors.Join(errs...)
}

// verbBehind: behind NODE OFFSET LENGTH. Changes the disk of a node behind its back.
func verbBehind(s *stage, a *args) error {
	n := s.node(a)
	off, length := a.number(), a.number()
	if a.err != nil {
		return a.err
	}
	_, err := n.mem.WriteAt(pattern(-1, off, length), off)
	return err
}

func verbWait(s *stage, a *args) error {
	n := s.node(a)
	conditions := a.rest()
	return n.until(s.ctx, func() (bool, error) { return n.holds(conditions) })
}

func verbIs(s *stage, a *args) error {
	n := s.node(a)
	ok, err := n.holds(a.rest())
	if err == nil && !ok {
		err = fmt.Errorf("it is\n%v", n.res.Status())
	}
	return err
}

// verbFails: fails "part_of_the_error" COMMAND... Underscores stand for spaces.
func verbFails(s *stage, a *args) error {
	text := strings.ReplaceAll(strings.Trim(a.next(), `"`), "_", " ")
	err := s.do(a.rest())
	switch {
	case err == nil:
		return errors.New("it did not fail")
	case !strings.Contains(err.Error(), text):
		return fmt.Errorf("it failed with another error: %w", err)
	}
	return nil
}

// verbBegin: begin NAME COMMAND... The command runs in the background until finish.
func verbBegin(s *stage, a *args) error {
	name, words := a.next(), a.rest()
	done := make(chan error, 1)
	s.begun[name] = done
	go func() { done <- s.do(words) }()
	return nil
}

// verbBusy: busy NAME. The command has not ended yet.
func verbBusy(s *stage, a *args) error {
	name := a.next()
	if len(s.begun[name]) > 0 {
		return fmt.Errorf("it has ended: %v", <-s.begun[name])
	}
	return nil
}

// verbFinish: finish NAME. Waits for the command, which must succeed.
func verbFinish(s *stage, a *args) error {
	name := a.next()
	done := s.begun[name]
	if done == nil {
		return fmt.Errorf("%q was not begun", name)
	}
	delete(s.begun, name)
	select {
	case err := <-done:
		return err
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// verbVerify: verify NODE [repair] [from OFFSET] [OFFSET+LENGTH...]. The online verify
// finds exactly these ranges, which are written as OFFSET LENGTH.
func verbVerify(s *stage, a *args) error {
	n := s.node(a)
	var opts []replica.VerifyOption
	if a.flag("repair") {
		opts = append(opts, replica.VerifyAndRepair())
	}
	want := []replica.ByteRange{}
	total := int64(0)
	for a.more() {
		r := replica.ByteRange{Off: a.number(), Len: a.number()}
		want = append(want, r)
		total += r.Len
	}
	if a.err != nil {
		return a.err
	}
	report, err := n.vol().Verify(s.ctx, opts...)
	switch {
	case err != nil:
		return err
	case !slices.Equal(want, report.Ranges) || report.Different != total || !report.Complete || report.More:
		return fmt.Errorf("it found %+v", report)
	}
	return nil
}

// verbMark: mark. From here on path, not, resync and travelled count.
func verbMark(s *stage, _ *args) error {
	s.since = time.Now()
	for _, n := range s.nodes {
		n.bytes = s.net.bytes(n.name)
		if n.other != nil {
			if err := n.other.mark(); err != nil {
				return err
			}
			continue
		}
		n.mu.Lock()
		n.mark = len(n.events)
		n.mu.Unlock()
	}
	return nil
}

// verbPath: path NODE FIELD VALUE... The field went through these values in this order.
func verbPath(s *stage, a *args) error {
	n, field := s.node(a), a.next()
	want := a.rest()
	if fields[field] == nil {
		return fmt.Errorf("there is no field %q", field)
	}
	var have []string
	for range 1000 { // the last of them may be under way
		if have = n.passed(fields[field]); subsequence(want, have) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("it went through %v", have)
}

// verbNot: not NODE FIELD VALUE... The field had none of these values.
func verbNot(s *stage, a *args) error {
	n, field := s.node(a), a.next()
	if fields[field] == nil {
		return fmt.Errorf("there is no field %q", field)
	}
	have := n.passed(fields[field])
	for _, bad := range a.rest() {
		if subsequence([]string{bad}, have) {
			return fmt.Errorf("it went through %v", have)
		}
	}
	return nil
}

// verbResync: resync NODE BYTES|<=BYTES|none. Exactly one resync began since the mark, of
// so much.
func verbResync(s *stage, a *args) error {
	n := s.node(a)
	asked, err := wantedResync(a)
	if err != nil {
		return err
	}
	var began []int64
	for range 100 { // the event may be under way
		began = began[:0]
		n.mu.Lock()
		for _, ev := range n.events[n.mark:] {
			if ev.Kind == replica.EventResyncStart {
				began = append(began, int64(ev.Blocks)*4096)
			}
		}
		n.mu.Unlock()
		if len(began) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if asked(began) {
		return nil
	}
	return fmt.Errorf("resyncs of %d bytes", began)
}

// wantedResync reads what resync takes.
func wantedResync(a *args) (func(began []int64) bool, error) {
	w := a.next()
	if w == "none" {
		return func(began []int64) bool { return len(began) == 0 }, a.err
	}
	limit, atMost := strings.CutPrefix(w, "<=")
	want, err := number(limit)
	return func(began []int64) bool {
		return len(began) == 1 && (began[0] == want || atMost && began[0] < want)
	}, errors.Join(a.err, err)
}

// verbGI: gi NODE remember | gi NODE new|same | gi NODE equal | gi NODE [no-]FLAG... The
// data generation of the node's disk: whether it changed since it was remembered, whether
// it is the peer's, and the flags of the metadata.
func verbGI(s *stage, a *args) error {
	n := s.node(a)
	v := n.res.Status().Volumes[0]
	for a.more() {
		w := a.next()
		ok := true
		switch w {
		case "remember":
			n.generation = v.IDs.Current
		case "new":
			ok = !v.IDs.Current.Equal(n.generation)
		case "same":
			ok = v.IDs.Current.Equal(n.generation)
		case "equal":
			if peer := s.nodes[other(n.name)]; peer.other != nil {
				return peer.other.perform(s, "gi", &args{words: []string{"equal"}})
			}
			ok = v.IDs.Current.Equal(s.nodes[other(n.name)].res.Status().Volumes[0].IDs.Current)
		default:
			name, negated := strings.CutPrefix(w, "no-")
			f, known := metadataFlags[name]
			if !known {
				return fmt.Errorf("there is no flag %q", w)
			}
			ok = (v.Flags&f != 0) != negated
		}
		if !ok {
			return fmt.Errorf("%s: %v, flags %v; remembered %v", w, v.IDs, v.Flags, n.generation)
		}
	}
	return nil
}

var metadataFlags = map[string]metadata.Flags{
	"consistent": metadata.Consistent, "primary": metadata.PrimaryInd, "connected": metadata.ConnectedInd, "full-sync": metadata.FullSync,
	"was-up-to-date": metadata.WasUpToDate, "peer-outdated": metadata.PeerOutdated, "crashed-primary": metadata.CrashedPrimary,
}

// verbTravelled: travelled NODE MOST. The node sent at most so much since the mark.
func verbTravelled(s *stage, a *args) error {
	n := s.node(a)
	most := a.number()
	if sent := s.net.bytes(n.name) - n.bytes; a.err == nil && sent > most {
		return fmt.Errorf("it sent %d bytes", sent)
	}
	return a.err
}

// verbForget: forget NODE. What counts is what this node's disk holds, as after the
// other one's changes were discarded.
func verbForget(s *stage, a *args) error {
	b, err := s.node(a).content()
	if err == nil {
		s.model = b
	}
	return err
}

func verbDelay(s *stage, a *args) error {
	d := a.duration()
	s.net.setDelay(d)
	return nil
}

func verbBandwidth(s *stage, a *args) error {
	n := a.number()
	s.net.setBandwidth(n)
	return nil
}

// verbHold: hold NODE COMMAND... Packets of these commands are kept from this node.
func verbHold(s *stage, a *args) error {
	n := s.node(a)
	for _, name := range a.rest() {
		found := false
		for c := range protocol.Command(0x100) {
			if c.String() == name {
				n.hold.Hold(c)
				found = true
			}
		}
		if !found {
			return fmt.Errorf("there is no packet %q", name)
		}
	}
	return nil
}

func verbRelease(s *stage, a *args) error { s.node(a).hold.Release(); return nil }

// verbFault: fault NODE read|write|flush [data|meta|OFFSET LENGTH] [TIMES]. Requests of the disk fail.
func verbFault(s *stage, a *args) error { return s.inject(a, blockdev.Fault{}) }

// verbFreeze: freeze NODE read|write|flush ... Requests hang until mend.
func verbFreeze(s *stage, a *args) error { return s.inject(a, blockdev.Fault{Hang: true}) }

func (s *stage) inject(a *args, f blockdev.Fault) error {
	n := s.node(a)
	for a.more() {
		switch w := a.next(); w {
		case "read":
			f.Kinds = append(f.Kinds, blockdev.OpRead)
		case "write":
			f.Kinds = append(f.Kinds, blockdev.OpWrite)
		case "flush":
			f.Kinds = append(f.Kinds, blockdev.OpFlush)
		case "data":
			f.Len = int64(len(s.model))
		case "meta":
			f.Off = int64(len(s.model))
			f.Len = n.disk.Size() - f.Off
		case "at":
			f.Off, f.Len = a.number(), a.number()
		case "once":
			f.Times = 1
		default:
			return fmt.Errorf("%q is no part of a fault", w)
		}
	}
	n.faults = append(n.faults, n.disk.Inject(f))
	return a.err
}

// verbMend: mend NODE. Ends all faults of its disk.
func verbMend(s *stage, a *args) error {
	n := s.node(a)
	for _, f := range n.faults {
		f()
	}
	n.faults = nil
	return nil
}

// verbSlow: slow NODE DURATION. Each read and write of its disk takes so long.
func verbSlow(s *stage, a *args) error {
	n := s.node(a)
	d := a.duration()
	n.slow.mu.Lock()
	n.slow.delay = d
	n.slow.mu.Unlock()
	return nil
}

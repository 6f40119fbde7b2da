// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica"
)

// perform is a command of a script, as kernelVerbs has them.
func (k *kernelPlayer) perform(s *stage, verb string, a *args) error {
	run := kernelVerbs[verb]
	if run == nil {
		return fmt.Errorf("the kernel cannot %q", verb)
	}
	if err := run(k, s, a); err != nil {
		return err
	}
	return a.end()
}

// kernelVerbs are what verbs are for a node.
var kernelVerbs = map[string]func(k *kernelPlayer, s *stage, a *args) error{
	"up": func(k *kernelPlayer, s *stage, _ *args) error { return k.up(s) },
	"down": func(k *kernelPlayer, _ *stage, _ *args) error {
		k.leaves++
		return k.kernel.Down(k.ctx)
	},
	"crash": func(k *kernelPlayer, s *stage, a *args) error {
		a.flag("power") // always
		s.allow["BrokenPipe"], s.allow["NetworkFailure"] = true, true
		if err := k.lab.guest.Crash(); err != nil {
			return err
		}
		return k.lab.guest.Restart(k.ctx)
	},
	"connect": func(k *kernelPlayer, s *stage, a *args) error {
		switch {
		case a.flag("discard-my-data"):
			return k.connectAsVictim(s)
		case a.flag("tentative"):
			return k.kernel.Connect(k.ctx, k.port, "--tentative")
		}
		return k.kernel.Connect(k.ctx, k.port)
	},
	"disconnect": func(k *kernelPlayer, _ *stage, a *args) error {
		k.leaves++
		err := k.kernel.Disconnect(k.ctx, k.port, forced(a)...)
		if err != nil && strings.Contains(err.Error(), "(162) Invalid configuration request") {
			return nil // it was StandAlone
		}
		return err
	},
	"promote": func(k *kernelPlayer, _ *stage, a *args) error { return k.kernel.Primary(k.ctx, forced(a)...) },
	"demote":  func(k *kernelPlayer, _ *stage, _ *args) error { return k.kernel.Secondary(k.ctx) },
	"attach": func(k *kernelPlayer, _ *stage, _ *args) error {
		return k.kernel.Attach(k.ctx, k.kernel.Volumes[0])
	},
	"detach":            kernelCommand("detach"),
	"invalidate":        kernelCommand("invalidate"),
	"invalidate-remote": kernelCommand("invalidate-remote"),
	"outdate":           kernelCommand("outdate"),
	"pause-sync":        kernelCommand("pause-sync"),
	"resume-sync":       kernelCommand("resume-sync"),
	"suspend-io":        kernelCommand("suspend-io"),
	"resume-io":         kernelCommand("resume-io"),
	"skip-sync":         kernelCommand("new-current-uuid", "--clear-bitmap"),
	"new-current-uuid":  kernelCommand("new-current-uuid"),
	"flush":             kernelScript("sync " + playDevice),
	"wait-sync":         kernelWait("conn=Connected", "disk=UpToDate", "pdsk=UpToDate", "oos=0"),
	"wait-connect":      kernelWait("conn=" + strings.Join(connectedStates, "|")),
	"wait": func(k *kernelPlayer, s *stage, a *args) error {
		return kernelWait(a.rest()...)(k, s, a)
	},
	"is": func(k *kernelPlayer, _ *stage, a *args) error {
		m, err := k.state()
		if err != nil {
			return err
		}
		ok, err := k.holds(m, a.rest())
		if err == nil && !ok {
			err = fmt.Errorf("the kernel is %s %v", m.State(), m.Counters)
		}
		return err
	},
	"path": kernelPath, "not": kernelNot, "resync": kernelResync,
	"write": kernelPlayWrite, "writes": kernelPlayWrites, "read": kernelPlayRead,
	"zero":    kernelZero,
	"discard": kernelDiscard,
	"behind": func(k *kernelPlayer, _ *stage, a *args) error {
		off, n := a.number(), a.number()
		if a.err != nil {
			return a.err
		}
		return k.put(labDisk, pattern(-1, off, n), off)
	},
	"writer": kernelStartWriter,
	"stop":   func(k *kernelPlayer, s *stage, _ *args) error { return k.stop(s) },
	"gi":     kernelGI,
	"verify": kernelPlayVerify,
	"freeze": func(k *kernelPlayer, _ *stage, a *args) error {
		a.rest() // the kernel's disk freezes as a whole
		return k.lab.guest.FreezeDisk(k.ctx, labDisk)
	},
	"mend": func(k *kernelPlayer, _ *stage, _ *args) error { return k.lab.guest.ThawDisk(k.ctx, labDisk) },
}

func forced(a *args) []string {
	if a.flag("force") {
		return []string{"--force"}
	}
	return nil
}

func kernelCommand(name string, options ...string) func(*kernelPlayer, *stage, *args) error {
	return func(k *kernelPlayer, _ *stage, _ *args) error {
		_, err := k.kernel.Command(k.ctx, k.kernel.Volumes[0], name, options...)
		return err
	}
}

func kernelScript(script string) func(*kernelPlayer, *stage, *args) error {
	return func(k *kernelPlayer, _ *stage, _ *args) error {
		_, err := k.lab.guest.Run(k.ctx, script)
		return err
	}
}

// kernelWait waits for a state of the kernel, as wait does for a node's.
func kernelWait(conditions ...string) func(*kernelPlayer, *stage, *args) error {
	return func(k *kernelPlayer, s *stage, _ *args) error {
		ctx, cancel := context.WithTimeout(s.ctx, labPatience)
		defer cancel()
		var bad error
		_, err := k.kernel.Wait(ctx, func(m kerneldrbd.Minor) bool {
			ok, err := k.holds(m, conditions)
			bad = err
			return ok || err != nil
		})
		if bad != nil {
			return bad
		}
		if err != nil {
			err = fmt.Errorf("waiting for %v: %w", conditions, err)
		}
		return err
	}
}

func kernelPath(k *kernelPlayer, _ *stage, a *args) error {
	field, want := a.next(), a.rest()
	if !soon(func() bool { return subsequence(want, k.passed(field)) }) {
		return fmt.Errorf("it went through %v", k.passed(field))
	}
	return nil
}

func kernelNot(k *kernelPlayer, _ *stage, a *args) error {
	field := a.next()
	if _, err := k.lab.guest.Mark(k.ctx); err != nil { // all has arrived
		return err
	}
	have := k.passed(field)
	for _, bad := range a.rest() {
		if slices.Contains(have, bad) {
			return fmt.Errorf("it went through %v", have)
		}
	}
	return nil
}

func kernelResync(k *kernelPlayer, _ *stage, a *args) error {
	asked, err := wantedResync(a)
	if err != nil {
		return err
	}
	if _, err := k.lab.guest.Mark(k.ctx); err != nil {
		return err
	}
	began, err := k.resyncs()
	if err != nil || asked(began) {
		return err
	}
	return fmt.Errorf("resyncs of %d bytes", began)
}

// connectAsVictim: a connection that the kernel gives up itself uses its discard-my-data
// up. Then both nodes are connected again, as an administrator would.
func (k *kernelPlayer) connectAsVictim(s *stage) error {
	for before := k.gaveUpSoFar(); ; before = k.gaveUpSoFar() {
		if err := k.kernel.Connect(k.ctx, k.port, "--discard-my-data"); err != nil {
			return err
		}
		conn := ""
		soon(func() bool {
			m, err := k.state()
			conn = m.Conn
			return err == nil && (conn == "Connected" || strings.HasPrefix(conn, "Sync") || conn == "StandAlone")
		})
		if conn != "StandAlone" || k.gaveUpSoFar() == before {
			return nil
		}
		survivor := s.nodes[other(k.name)].res
		if err := survivor.Connect(k.ctx); err != nil && !errors.Is(err, replica.ErrConnected) {
			return err
		}
	}
}

// put writes to a disk of the guest from outside.
func (k *kernelPlayer) put(disk int, data []byte, off int64) error {
	f, err := os.OpenFile(k.lab.disks[disk], os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, off)
	return errors.Join(err, f.Close())
}

// stage puts data where the guest can read it, and returns the place.
func (k *kernelPlayer) stage(data []byte) (int64, error) {
	n := int64(len(data))
	if n > stageTo-stageFrom {
		return 0, fmt.Errorf("%d bytes at once are too many", n)
	}
	if k.staged+n > stageTo {
		k.staged = stageFrom
	}
	at := k.staged
	k.staged += n
	return at, k.put(labPattern, data, at)
}

func kernelPlayWrite(k *kernelPlayer, s *stage, a *args) error {
	off, n := a.number(), a.number()
	fua := a.flag("fua")
	data := pattern(a.numberOr(int64(len(s.trace))), off, n)
	if a.err != nil {
		return a.err
	}
	at, err := k.stage(data)
	if err != nil {
		return err
	}
	if err := k.lab.guest.Copy(k.ctx, playDevice, off, k.lab.device(labPattern), at, n, n); err != nil {
		return err
	}
	copy(s.model[off:], data)
	if fua {
		_, err = k.lab.guest.Run(k.ctx, "sync "+playDevice)
	}
	return err
}

// kernelPlayWrites writes from four processes at a time.
func kernelPlayWrites(k *kernelPlayer, s *stage, a *args) error {
	count, n, stride, from := a.number(), a.number(), a.number(), a.numberOr(0)
	if a.err != nil {
		return a.err
	}
	var data []byte
	for i := range count {
		one := pattern(int64(len(s.trace)), from+i*stride, n)
		copy(s.model[from+i*stride:], one)
		data = append(data, one...)
	}
	at, err := k.stage(data)
	if err != nil {
		return err
	}
	const lanes = 4
	var script, wait strings.Builder
	for lane := range int64(lanes) {
		first, last := lane*count/lanes, (lane+1)*count/lanes
		if first == last {
			continue
		}
		dd := "dd if=" + k.lab.device(labPattern) + " of=" + playDevice + " conv=notrunc iflag=direct,skip_bytes oflag=direct,seek_bytes status=none"
		if stride == n {
			fmt.Fprintf(&script, "%s bs=%d count=%d skip=%d seek=%d & p%d=$!; ", dd, n, last-first, at+first*n, from+first*n, lane)
		} else {
			fmt.Fprintf(&script, "(i=%d; while [ $i -lt %d ]; do %s bs=%d count=1 skip=$((%d+i*%d)) seek=$((%d+i*%d)) || exit 1; i=$((i+1)); done) & p%d=$!; ",
				first, last, dd, n, at, n, from, stride, lane)
		}
		fmt.Fprintf(&wait, "wait $p%d && ", lane)
	}
	_, err = k.lab.guest.Run(k.ctx, script.String()+wait.String()+"true")
	return err
}

func kernelPlayRead(k *kernelPlayer, s *stage, a *args) error {
	off, n := a.number(), a.number()
	if a.err != nil {
		return a.err
	}
	out, err := k.lab.guest.Run(k.ctx, fmt.Sprintf("dd if=%s bs=%d count=1 skip=%d iflag=direct,skip_bytes status=none", playDevice, n, off))
	if err == nil && !bytes.Equal([]byte(out), s.model[off:off+n]) {
		err = errors.New("it is not what was written")
	}
	return err
}

func kernelZero(k *kernelPlayer, s *stage, a *args) error {
	off, n := a.number(), a.number()
	a.flag("unmap") // the kernel decides
	if a.err != nil {
		return a.err
	}
	clear(s.model[off : off+n])
	_, err := k.lab.guest.Run(k.ctx, fmt.Sprintf("zero-range -z -o %d -l %d %s", off, n, playDevice))
	return err
}

func kernelDiscard(k *kernelPlayer, s *stage, a *args) error {
	off, n := a.number(), a.number()
	if a.err != nil {
		return a.err
	}
	clear(s.model[off : off+n])
	_, err := k.lab.guest.Run(k.ctx, fmt.Sprintf("zero-range -o %d -l %d %s", off, n, playDevice))
	return err
}

// kernelWriter writes a plan over and over again until it is stopped.
type kernelWriter struct {
	plan []planned
	done chan error
	out  string
}

type planned struct {
	off  int64
	data []byte
}

// kernelStartWriter takes as long for a write as the guest takes, whatever the pause.
func kernelStartWriter(k *kernelPlayer, s *stage, a *args) error {
	from, to, n := a.number(), a.number(), a.number()
	a.duration()
	if a.err != nil {
		return a.err
	}
	if len(k.writers) == writerPlaces {
		return errors.New("so many writers are too many")
	}
	const room = (labPatternDisk - writerFrom) / writerPlaces
	place := writerFrom + int64(len(k.writers))*room
	w := &kernelWriter{done: make(chan error, 1)}
	rng := rand.New(rand.NewPCG(uint64(len(s.trace)), 0))
	var list strings.Builder
	for i := range 128 {
		p := planned{off: from + rng.Int64N((to-from-n)/512+1)*512}
		p.data = pattern(rng.Int64(), p.off, n)
		w.plan = append(w.plan, p)
		at := place + int64(i)*n
		if at+n > place+room {
			break
		}
		if err := k.put(labPattern, p.data, at); err != nil {
			return err
		}
		fmt.Fprintf(&list, " %d:%d", at, p.off)
	}
	script := fmt.Sprintf("c=0; while [ $c = 0 ] || [ ! -e /run/stop ]; do for p in%s; do "+
		"dd if=%s of=%s bs=%d count=1 skip=${p%%:*} seek=${p#*:} conv=notrunc iflag=direct,skip_bytes oflag=direct,seek_bytes status=none || exit 1; c=$((c+1)); [ -e /run/stop ] && break; done; done; echo $c",
		&list, k.lab.device(labPattern), playDevice, n)
	if len(k.writers) == 0 {
		if _, err := k.lab.guest.Run(k.ctx, "rm -f /run/stop"); err != nil {
			return err
		}
	}
	go func() {
		var err error
		w.out, err = k.lab.guest.Run(k.ctx, script)
		w.done <- err
	}()
	k.writers = append(k.writers, w)
	return nil
}

// stop ends the writers, all of which must have written. What they wrote goes into the
// model, if there is a stage.
func (k *kernelPlayer) stop(s *stage) error {
	writers := k.writers
	if len(writers) == 0 {
		return errors.New("it does not write")
	}
	k.writers = nil
	if _, err := k.lab.guest.Run(k.ctx, "touch /run/stop"); err != nil {
		return err
	}
	var errs []error
	for _, w := range writers {
		if err := <-w.done; err != nil {
			errs = append(errs, err)
			continue
		}
		done, err := strconv.Atoi(strings.TrimSpace(w.out))
		if err == nil && done == 0 {
			err = errors.New("it has written nothing")
		}
		for i := range done {
			if p := w.plan[i%len(w.plan)]; s != nil {
				copy(s.model[p.off:], p.data)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// kernelGI: gi NODE equal. What else gi can do is for our nodes only.
func kernelGI(k *kernelPlayer, s *stage, a *args) error {
	if w := a.next(); w != "equal" {
		return fmt.Errorf("the kernel cannot tell %q", w)
	}
	own, err := k.generation()
	if err != nil {
		return err
	}
	if peer := s.nodes[other(k.name)].res.Status().Volumes[0].IDs; !own.Equal(peer.Current) {
		return fmt.Errorf("it is in %v, the other node in %v", own, peer)
	}
	return nil
}

// generation is the current identifier of the kernel's disk.
func (k *kernelPlayer) generation() (metadata.UUID, error) {
	out, err := k.kernel.Command(k.ctx, k.kernel.Volumes[0], "get-gi")
	if err != nil {
		return 0, err
	}
	word, _, _ := strings.Cut(strings.TrimSpace(out), ":")
	n, err := strconv.ParseUint(word, 16, 64)
	return metadata.UUID(n), err
}

var verifyDone = regexp.MustCompile(`Online verify +done`)

func kernelPlayVerify(k *kernelPlayer, s *stage, a *args) error {
	want := []replica.ByteRange{}
	for a.more() {
		want = append(want, replica.ByteRange{Off: a.number(), Len: a.number()})
	}
	if a.err != nil {
		return a.err
	}
	atRest := kernelWait("conn=Connected") // it may not have heard yet that the other's verify is done
	if err := atRest(k, s, a); err != nil {
		return err
	}
	mark, err := k.lab.guest.Mark(k.ctx)
	if err != nil {
		return err
	}
	if _, err := k.kernel.Command(k.ctx, k.kernel.Volumes[0], "verify", "--start=0s"); err != nil {
		return err
	}
	if _, _, err := k.lab.guest.WaitLog(k.ctx, mark, verifyDone); err != nil {
		return err
	}
	if err := atRest(k, s, a); err != nil {
		return err
	}
	found, err := rangesFound(k.lab.guest.LogSoFar(mark))
	if err == nil && !slices.Equal(want, found) {
		err = fmt.Errorf("it found %+v", found)
	}
	return err
}

// rangesFound is what the kernel's log says to be out of sync.
func rangesFound(lines []string) ([]replica.ByteRange, error) {
	list := []replica.ByteRange{}
	for _, line := range lines {
		m := kernelFound.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		start, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil {
			return nil, err
		}
		size, err := strconv.ParseInt(m[2], 10, 64)
		if err != nil {
			return nil, err
		}
		list = append(list, replica.ByteRange{Off: start * 512, Len: size * 512})
	}
	return list, nil
}

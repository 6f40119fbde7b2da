// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Resource is a group of volumes that this node replicates with its peer. They
// share one connection, one role and one order of writes. All methods are safe
// for concurrent use.
//
// Commands (Connect, Promote, ...) wait until the change is made or refused. One whose
// context ends before is given up. What it has changed stays, and what the peer has been
// asked may still happen, as Status tells; but it begins nothing more, and a node that
// was not promoted in time is not promoted later.
type Resource struct {
	name    string
	cfg     Config
	start   time.Time
	volumes []*Volume // in the core's order
	hub     hub
	log     *logWriter
	calls   sync.Pool // of *call
	diskOps sync.Pool // of *diskOp
	buffers *buffers  // for what is read on behalf of the peer

	dispatch *dispatch // runs handlers
	order    *ResyncOrder
	admin    sync.Mutex // held by ChangePeer

	mu       sync.Mutex // guards what follows, and every call of the core
	core     *core.Core
	peer     PeerConfig // options in force, but for what the core knows better; zero without a peer
	failed   error      // once set, the core is not called any more
	closing  bool
	links    []*link // per peer: the connection, or the attempt at one; nil if none
	spares   [][2]*core.Out
	inFlight callList // application requests in the core's hands
	commands []*command
	opsOut   int // disk operations in progress
	outsOut  int // Outs that are being sent
	watches  []*watch
	alarm    alarm
	lastLoss []error  // per peer: why it is StandAlone
	remotes  []string // per peer: its address in the last connection

	wg        sync.WaitGroup // goroutines of the resource
	shutdown  sync.Once
	closed    chan struct{} // closed at the end of the first Shutdown
	closedErr error
}

// DefaultShutdownTimeout bounds Close.
const DefaultShutdownTimeout = 10 * time.Second

// forcedTimeout is how long a Shutdown whose time is over waits for disks that
// hang before it leaves them behind.
const forcedTimeout = time.Second

// Open brings a resource into service: it reads the metadata of every volume that
// has a disk, applies the activity log in memory as a crash requires, and attaches
// the disks. The resource is then Secondary and StandAlone: [Resource.Connect] and
// [Resource.Promote] come next.
//
// Metadata must exist (see [CreateMetadata]), else the error matches
// metadata.ErrNoMetadata. Other errors: ErrConfig, those of package metadata, and
// the devices' own. After an error nothing is left running, and the devices are
// not in use.
func Open(ctx context.Context, cfg Config) (*Resource, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("replica: open %s: %w", cfg.Name, err)
	}
	r, err := newResource(cfg)
	if err != nil {
		return nil, fmt.Errorf("replica: open %s: %w", cfg.Name, err)
	}
	for _, v := range r.volumes {
		if v.cfg.Disk == nil {
			continue
		}
		if err := v.attach(ctx, Disk{}); err != nil {
			r.stop(ErrClosed)
			return nil, fmt.Errorf("replica: open %s: volume %d: %w", cfg.Name, v.cfg.ID, errors.Join(err, r.release(forcedTimeout)))
		}
	}
	return r, nil
}

// newResource builds a resource without disks.
func newResource(cfg Config) (*Resource, error) {
	cfg.Volumes = slices.Clone(cfg.Volumes)
	slices.SortFunc(cfg.Volumes, func(a, b VolumeConfig) int { return int(a.ID) - int(b.ID) })
	cfg.Peers = slices.Clone(cfg.Peers)
	r := &Resource{
		name: cfg.Name, cfg: cfg, start: time.Now(),
		links:    make([]*link, max(1, len(cfg.Peers))),
		lastLoss: make([]error, max(1, len(cfg.Peers))),
		remotes:  make([]string, max(1, len(cfg.Peers))),
		dispatch: newDispatch(),
		closed:   make(chan struct{}),
	}
	r.calls.New = func() any { return newCall() }
	r.diskOps.New = func() any { return newDiskOp(r) }
	r.buffers = newBuffers(maxBuffersOf(&cfg))
	c, err := core.New(r.coreConfig())
	if err != nil {
		return nil, err
	}
	r.core = c
	if len(cfg.Peers) > 0 {
		r.peer = cfg.Peers[0]
	}
	for range r.links {
		r.spares = append(r.spares, [2]*core.Out{{}, {}})
	}
	for i := range cfg.Volumes {
		r.volumes = append(r.volumes, newVolume(r, i))
	}
	r.log = newLogWriter(cfg.Logger, cfg.Name)
	r.alarm.start(r)
	if r.order = cfg.ResyncOrder; r.order == nil {
		r.order = &ResyncOrder{}
	}
	if err := r.order.join(r); err != nil {
		r.volumes = nil // they are not in it
		r.stop(ErrClosed)
		return nil, errors.Join(err, r.release(forcedTimeout))
	}
	return r, nil
}

// random returns 64 random bits from the operating system.
func random() uint64 {
	var b [8]byte
	crand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// Name returns Config.Name.
func (r *Resource) Name() string { return r.name }

// Volume returns the volume with this ID, or nil if the resource has none.
func (r *Resource) Volume(id uint16) *Volume {
	for _, v := range r.volumes {
		if v.cfg.ID == id {
			return v
		}
	}
	return nil
}

// Volumes returns all volumes in ascending order of ID.
func (r *Resource) Volumes() []*Volume { return slices.Clone(r.volumes) }

// Status returns the present state. After Close, or after a failure, it is the
// state at that time.
func (r *Resource) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	snap := r.snapshot()
	st := statusOf(&snap)
	st.Failed = r.failed
	st.Name = r.name
	for i := range st.Peers {
		if l := r.links[i]; l != nil && l.pair != nil {
			st.Peers[i].Local, st.Peers[i].Remote = l.pair.Local, l.pair.Remote
		}
		if st.Peers[i].Conn == protocol.StandAlone {
			st.Peers[i].StandAloneReason = r.lastLoss[i]
		}
	}
	return st
}

// snapshot asks the core for its state. A core that has panicked may do so again.
// It is called under the lock.
func (r *Resource) snapshot() (snap core.Snapshot) {
	defer func() {
		if p := recover(); p != nil {
			r.failLocked(fmt.Errorf("%w: %v", ErrInternal, p))
			snap = core.Snapshot{Volumes: make([]core.VolumeSnapshot, len(r.volumes))}
		}
	}()
	return r.core.Snapshot()
}

// Close is Shutdown with a limit of DefaultShutdownTimeout.
func (r *Resource) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), DefaultShutdownTimeout)
	defer cancel()
	return r.Shutdown(ctx)
}

// Shutdown ends the resource in order: it refuses new requests with ErrClosed,
// waits for those that have begun, demotes, tells the peer that it leaves,
// disconnects, and detaches the disks with clean metadata, so that the next Open
// needs no resync. If ctx ends before, or for [Close] after ten seconds,
// what is left is done by force: connections are cut, requests fail with
// ErrClosed, and the metadata is left as after a crash, which is safe.
//
// No goroutine of the resource survives, and the devices and the transport may be
// closed. The exception is a disk that does not answer: then Shutdown returns
// ErrHung after a second, and the device is in use until it does answer.
//
// Shutdown may be called more than once, and at the same time; every call waits for
// the end of the first and returns its result.
func (r *Resource) Shutdown(ctx context.Context) error {
	r.shutdown.Do(func() {
		err := r.closeInOrder(ctx)
		r.stop(ErrClosed)
		r.closedErr = errors.Join(err, r.release(forcedTimeout))
		close(r.closed)
	})
	<-r.closed
	return r.closedErr
}

// closeInOrder asks the core for an orderly end.
func (r *Resource) closeInOrder(ctx context.Context) error {
	r.mu.Lock()
	r.closing = true
	if r.failed != nil {
		r.mu.Unlock()
		return r.explain("shut down", r.failed)
	}
	err := r.runCommand(ctx, func(c *core.Core, cmd *core.Command) { c.Shutdown(cmd) })
	if err != nil && ctx.Err() != nil {
		r.log.warn("shutdown did not end in time, the rest is done by force", -1)
		return nil // what matters is whether release succeeds
	}
	return r.explain("shut down", err)
}

// stop drops the core: from now on nothing is decided any more. Requests fail with
// reason when nothing uses their buffers any more.
func (r *Resource) stop(reason error) {
	w := newWork()
	r.mu.Lock()
	r.failLocked(reason)
	r.step(w, nil)
	r.mu.Unlock()
	w.loop(r)
}

// release waits until all goroutines have ended, for at most limit, and lets go of
// what the resource holds.
func (r *Resource) release(limit time.Duration) error {
	r.alarm.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.wg.Wait()
		for _, v := range r.volumes {
			v.closeQueues()
		}
	}()
	var err error
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		err = fmt.Errorf("replica: %s: shut down: %w; its device is in use until it does", r.name, ErrHung)
	}
	r.buffers.close()
	r.hub.close()
	r.log.close(limit)
	return err
}

// now is the core's clock.
func (r *Resource) now() time.Duration { return time.Since(r.start) }

// queueDepth is how many disk requests of a volume may run at one time.
func (r *Resource) queueDepth(v *VolumeConfig) int {
	if v.QueueDepth > 0 {
		return v.QueueDepth
	}
	return defaultQueueDepth
}

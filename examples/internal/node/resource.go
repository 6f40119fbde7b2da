// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// Resource is what the node was told of one resource, and the replica.Resource that
// does the work.
type Resource struct {
	node *Node
	name string
	link *link

	admin sync.Mutex // one change of the structure at a time; taken before the others

	mu       sync.RWMutex // guards what follows
	options  Options
	handlers map[string][]string
	volumes  map[uint16]*Volume
	net      *Net
	netUp    bool // connect was called, and no disconnect since
	res      *replica.Resource
	opened   string             // what res was opened with
	stop     context.CancelFunc // ends the reader of res's events
	reader   chan struct{}
	log      []Entry
	verifies []context.CancelFunc

	openMu   sync.Mutex // clients come and go, and the role changes
	promoted bool       // by the first client

	background sync.WaitGroup // verifies
}

// Volume is one volume of a Resource.
type Volume struct {
	r       *Resource
	id      uint16
	minor   int
	dev     *Device
	options Options  // of the disk
	last    *Backing // the disk of the last attach, for an attach without arguments

	backing  *Backing // nil: not attached
	degraded bool     // was a lone Primary when it crashed (spec: behaviour 6.11)
}

// Backing is a volume's disk.
type Backing struct {
	Disk, MetaDisk string // paths; MetaDisk is "internal" for internal metadata
	Index          string // "internal", "flex-external" or a number

	data, meta blockdev.Device
}

// Net is a configured connection.
type Net struct {
	Local, Remote string // host:port
	// PeerName is the peer's node name, or empty if it is not known. With TLS its
	// certificate must be for this name, or else for the host of Remote.
	PeerName string
	Options  Options
}

// Entry is one line of a resource's recent history.
type Entry struct {
	Time time.Time
	Text string
	Kind replica.EventKind
}

// Name returns the resource's name.
func (r *Resource) Name() string { return r.name }

// ID returns the volume number.
func (v *Volume) ID() uint16 { return v.id }

// Minor returns the minor number.
func (v *Volume) Minor() int { return v.minor }

// Device returns the volume as its clients see it.
func (v *Volume) Device() *Device { return v.dev }

// Resource returns the resource that the volume belongs to.
func (v *Volume) Resource() *Resource { return v.r }

// Volumes returns the volumes by number.
func (r *Resource) Volumes() []*Volume {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.volumesLocked()
}

func (r *Resource) volumesLocked() []*Volume {
	out := slices.Collect(maps.Values(r.volumes))
	slices.SortFunc(out, func(a, b *Volume) int { return int(a.id) - int(b.id) })
	return out
}

// Net returns the configured connection, nil if there is none.
func (r *Resource) Net() *Net {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.net == nil {
		return nil
	}
	c := *r.net
	return &c
}

// Log returns the recent history, the oldest first.
func (r *Resource) Log() []Entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Clone(r.log)
}

// replica returns the replica.Resource, or nil if no command has needed one yet.
func (r *Resource) replica() *replica.Resource {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.res
}

// inUse reports whether a device of the resource is open.
func (r *Resource) inUse() bool {
	for _, v := range r.Volumes() {
		if v.dev.opens.Load() > 0 {
			return true
		}
	}
	return false
}

// idle reports whether a replica.Resource can be exchanged for another one.
func idle(res *replica.Resource) bool {
	st := res.Status()
	if st.Role() == protocol.Primary {
		return false
	}
	for _, v := range st.Volumes {
		if v.State.Conn != protocol.StandAlone {
			return false
		}
	}
	return true
}

// configuration builds what the replica.Resource takes at its start, without disks,
// and a text that differs when it does.
func (r *Resource) configuration() (replica.Config, string, error) {
	r.node.mu.RLock() // before the resource's, as in NewMinor
	defer r.node.mu.RUnlock()
	r.mu.RLock()
	defer r.mu.RUnlock()
	cfg := replica.Config{Name: r.name, Logger: slog.New(quiet{r.node.log.Handler()}), ResyncOrder: &r.node.order}
	if ResourceOptions.value(r.options, "on-no-data-accessible") == "suspend-io" {
		cfg.OnNoData = replica.NoDataSuspend
	}
	r.applyHandlers(&cfg)
	print := ""
	for _, v := range r.volumesLocked() {
		vc := replica.VolumeConfig{ID: v.id, Minor: v.minor}
		applyDisk(&vc, v.options)
		vc.ResyncAfter = r.node.reference(DiskOptions.number(v.options, "resync-after"))
		cfg.Volumes = append(cfg.Volumes, vc)
		print += fmt.Sprintf("%d %d %v\n", v.id, v.minor, v.options)
	}
	peer := replica.PeerConfig{Name: "peer", Transport: r.link}
	var o Options
	if r.net != nil {
		o = r.net.Options
		if r.net.PeerName != "" {
			peer.Name = r.net.PeerName
		}
	}
	if err := applyNet(&peer, o); err != nil {
		return cfg, "", err
	}
	cfg.Peers = []replica.PeerConfig{peer}
	return cfg, print + fmt.Sprintf("%s %v %v %v", peer.Name, o, r.options, r.handlers), nil
}

// ensure returns a replica.Resource that has the present configuration: the one that
// there is, or a new one in its place. The caller holds admin.
func (r *Resource) ensure(ctx context.Context) (*replica.Resource, error) {
	cfg, print, err := r.configuration()
	if err != nil {
		return nil, err
	}
	if res := r.replica(); res != nil {
		if r.opened == print && res.Status().Failed == nil {
			return res, nil
		}
		if res.Status().Failed == nil && (!idle(res) || r.inUse()) {
			return nil, failure(CodeInvalid, "%s has to be Secondary and disconnected for this change", r.name)
		}
		if err := r.close(ctx); err != nil {
			return nil, err
		}
	}
	res, err := replica.Open(ctx, cfg)
	if err != nil {
		return nil, translate(err)
	}
	r.install(res, print)
	var errs []error
	for _, v := range r.Volumes() {
		if v.backing == nil {
			continue
		}
		if err := r.attachNow(ctx, res, v); err != nil {
			errs = append(errs, err)
		}
	}
	return res, errors.Join(errs...)
}

// install takes a new replica.Resource into service.
func (r *Resource) install(res *replica.Resource, print string) {
	ctx, stop := context.WithCancel(context.Background())
	events := res.Events(ctx)
	reader := make(chan struct{})
	r.mu.Lock()
	r.res, r.opened, r.stop, r.reader = res, print, stop, reader
	for id, v := range r.volumes {
		v.dev.current.Store(res.Volume(id))
	}
	r.mu.Unlock()
	go func() {
		defer close(reader)
		for ev := range events {
			r.note(ev)
			r.node.hub.notify(r.name)
		}
	}()
	r.node.hub.notify(r.name)
}

// historyLen is how many entries Log has at most.
const historyLen = 50

// note writes an event to the log and to the history.
func (r *Resource) note(ev replica.Event) {
	level := slog.LevelInfo
	if ev.Kind == replica.EventSplitBrain || ev.Kind == replica.EventIOError || ev.Kind == replica.EventRefused {
		level = slog.LevelError
	}
	r.node.log.Log(context.Background(), level, ev.String(), "resource", r.name, "event", ev.Kind.String(), "seq", ev.Seq)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.log) == historyLen {
		r.log = slices.Delete(r.log, 0, 1)
	}
	r.log = append(r.log, Entry{ev.Time, ev.String(), ev.Kind})
}

// close ends the replica.Resource. Disks stay open. The caller holds admin.
func (r *Resource) close(ctx context.Context) error {
	res := r.replica()
	if res == nil {
		return nil
	}
	r.endVerify()
	err := res.Shutdown(ctx)
	r.background.Wait()
	r.stop()
	<-r.reader
	r.mu.Lock()
	r.res = nil
	for _, v := range r.volumes {
		v.dev.current.Store(nil)
	}
	r.mu.Unlock()
	r.node.hub.notify(r.name)
	return err
}

// shutdown ends the resource and closes its disks and its transport.
func (r *Resource) shutdown(ctx context.Context) error {
	r.admin.Lock()
	defer r.admin.Unlock()
	err := r.close(ctx)
	if errors.Is(err, replica.ErrHung) {
		return err // the devices are in use
	}
	errs := []error{err, r.link.Close()}
	for _, v := range r.Volumes() {
		errs = append(errs, v.closeBacking())
	}
	return errors.Join(errs...)
}

// openBacking opens a volume's disk.
func openBacking(b Backing) (*Backing, error) {
	var err error
	if b.data, err = blockdev.Open(b.Disk, blockdev.Options{}); err != nil {
		if errors.Is(err, blockdev.ErrBusy) {
			return nil, failure(CodeDiskClaimed, "%v", err)
		}
		return nil, failure(CodeOpenDisk, "%v", err)
	}
	if b.MetaDisk != "internal" {
		if b.meta, err = blockdev.Open(b.MetaDisk, blockdev.Options{}); err != nil {
			_ = b.data.Close()
			return nil, failure(CodeOpenMetaDisk, "%v", err)
		}
	}
	return &b, nil
}

// location returns where the metadata lies.
func (b *Backing) location() (metadata.Location, error) {
	if b.MetaDisk == "internal" {
		return metadata.Internal(), nil
	}
	return metadata.ParseLocation(b.Index, metadata.V08)
}

func (v *Volume) closeBacking() error {
	b := v.backing
	if b == nil {
		return nil
	}
	v.r.mu.Lock()
	v.backing = nil
	v.r.mu.Unlock()
	err := b.data.Close()
	if b.meta != nil {
		err = errors.Join(err, b.meta.Close())
	}
	return err
}

// quiet lets the SDK's warnings through; what is less is in the events.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}
func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(name string) slog.Handler   { return quiet{q.Handler.WithGroup(name)} }

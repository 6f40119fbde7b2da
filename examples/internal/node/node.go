// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-blockmirror/blockmirror/replica"
)

// Config describes a node. The zero value is a node with plain TCP and no log.
type Config struct {
	// Name is this node's name, as "on NAME" in drbd.conf has it.
	Name string
	// AutoPromote makes the first client of a device promote its resource, and the last
	// one that leaves demote it.
	AutoPromote bool
	// ConfFile is what handlers find in DRBD_CONF, or empty.
	ConfFile string
	// Load reads the configuration file anew, for UpByName; nil without a file. With an
	// error it may return the resources that are good.
	Load    func() ([]ResourceConfig, error)
	Network NetworkConfig
	Logger  *slog.Logger
}

// Node is a set of resources. All methods are safe for concurrent use.
type Node struct {
	cfg Config
	log *slog.Logger
	net network
	hub hub
	// order is who waits for whom with a resync.
	order replica.ResyncOrder

	mu        sync.RWMutex
	closed    bool
	resources map[string]*Resource
	minors    map[int]*Volume
}

// New returns a node without resources.
func New(cfg Config) *Node {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Network.Logger == nil {
		cfg.Network.Logger = cfg.Logger
	}
	return &Node{
		cfg: cfg, log: cfg.Logger, net: network{cfg: cfg.Network},
		resources: map[string]*Resource{}, minors: map[int]*Volume{},
	}
}

// Name returns Config.Name.
func (n *Node) Name() string { return n.cfg.Name }

// Close ends all resources in order, several at a time, and closes what the node has
// open. If ctx ends before, the rest is done by force.
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	var wg sync.WaitGroup
	all := n.Resources()
	errs := make([]error, len(all)+1)
	for i, r := range all {
		wg.Go(func() { errs[i] = r.shutdown(ctx) })
	}
	wg.Wait()
	errs[len(all)] = n.net.close()
	n.hub.close()
	return errors.Join(errs...)
}

// Resources returns all resources in the order of their names.
func (n *Node) Resources() []*Resource {
	n.mu.RLock()
	defer n.mu.RUnlock()
	out := make([]*Resource, 0, len(n.resources))
	for _, name := range slices.Sorted(maps.Keys(n.resources)) {
		out = append(out, n.resources[name])
	}
	return out
}

// Resource returns the resource of that name. Errors: *Error, 158.
func (n *Node) Resource(name string) (*Resource, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if r := n.resources[name]; r != nil {
		return r, nil
	}
	return nil, failure(CodeUnknownResource, "%s", name)
}

// Volume returns the volume that has a minor, written as 0, drbd0, minor-0 or /dev/drbd0.
// Errors: *Error, 127.
func (n *Node) Volume(minor string) (*Volume, error) {
	m, err := parseMinor(minor)
	if err != nil {
		return nil, err
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if v := n.minors[m]; v != nil {
		return v, nil
	}
	return nil, failure(CodeNoMinor, "minor %d", m)
}

// Device returns the device of an export called RESOURCE/VOLUME, or RESOURCE where that
// has one volume.
func (n *Node) Device(export string) (*Device, error) {
	name, id, numbered := strings.Cut(export, "/")
	r, err := n.Resource(name)
	if err != nil {
		return nil, err
	}
	volumes := r.Volumes()
	if !numbered && len(volumes) == 1 {
		return volumes[0].dev, nil
	}
	for _, v := range volumes {
		if numbered && itoa(int(v.id)) == id {
			return v.dev, nil
		}
	}
	return nil, failure(CodeNoMinor, "%s: want RESOURCE/VOLUME", export)
}

// Devices returns all devices, by resource and volume.
func (n *Node) Devices() (out []*Device) {
	for _, r := range n.Resources() {
		for _, v := range r.Volumes() {
			out = append(out, v.dev)
		}
	}
	return out
}

// NewResource records a resource (new-resource). One that exists stays as it is, as with
// DRBD. Errors: *Error, 162 for a name that cannot be.
func (n *Node) NewResource(name string, o Options) error {
	if name == "" || name == "all" || strings.ContainsAny(name, "/ \t\n") || len(name) > 128 {
		return failure(CodeInvalid, "%q cannot be the name of a resource", name)
	}
	opts, err := ResourceOptions.Check(o)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return usage("the daemon is shutting down")
	}
	if n.resources[name] != nil {
		return nil
	}
	n.resources[name] = &Resource{node: n, name: name, options: opts, volumes: map[uint16]*Volume{}, link: &link{}}
	n.hub.notify(name)
	return nil
}

// DelResource forgets a resource without volumes (del-resource).
func (n *Node) DelResource(ctx context.Context, name string) error {
	r, err := n.Resource(name)
	if err != nil {
		return err
	}
	if r.connecting() {
		return failure(CodeHasNet, "%s", name)
	}
	if len(r.Volumes()) > 0 {
		return failure(CodeResourceInUse, "%s has %d", name, len(r.Volumes()))
	}
	if err := r.shutdown(ctx); err != nil {
		return translate(err)
	}
	n.mu.Lock()
	delete(n.resources, name)
	n.mu.Unlock()
	n.hub.notify(name)
	return nil
}

// NewMinor adds a volume to a resource (new-minor). Errors: *Error, 158, 161, 162.
func (n *Node) NewMinor(name, minor, volume string) error {
	r, err := n.Resource(name)
	if err != nil {
		return err
	}
	m, err := parseMinor(minor)
	if err != nil {
		return err
	}
	id, err := strconv.ParseUint(volume, 10, 16)
	if err != nil {
		return usage("%q is no volume number, want 0 to 65535", volume)
	}
	r.admin.Lock()
	defer r.admin.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if n.minors[m] != nil || r.volumes[uint16(id)] != nil {
		return failure(CodeMinorExists, "minor %d, volume %d", m, id)
	}
	if r.res != nil && !idle(r.res) {
		return failure(CodeInvalid, "volumes cannot be added while the resource is Primary or connected")
	}
	v := &Volume{r: r, id: uint16(id), minor: m}
	v.dev = &Device{v: v}
	n.minors[m], r.volumes[v.id] = v, v
	n.hub.notify(name)
	return nil
}

// DelMinor forgets a volume that has no disk (del-minor). Errors: *Error, 127, 160.
func (n *Node) DelMinor(ctx context.Context, minor string) error {
	v, err := n.Volume(minor)
	if err != nil {
		return err
	}
	r := v.r
	r.admin.Lock()
	defer r.admin.Unlock()
	if v.backing != nil {
		return failure(CodeMinorConfigured, "detach it first")
	}
	return r.remove(ctx, v)
}

// remove takes a volume out. The caller holds admin.
func (r *Resource) remove(ctx context.Context, v *Volume) error {
	if res := r.replica(); res != nil {
		if !idle(res) {
			return failure(CodeMinorConfigured, "disconnect and demote %s first", r.name)
		}
		if err := r.close(ctx); err != nil {
			return translate(err)
		}
	}
	r.node.mu.Lock()
	delete(r.node.minors, v.minor)
	r.node.mu.Unlock()
	r.mu.Lock()
	delete(r.volumes, v.id)
	r.mu.Unlock()
	r.node.hub.notify(r.name)
	return nil
}

// reference returns the volume that a minor stands for in resync-after, nil for -1. The
// caller holds n.mu. A minor that is not there stands for nobody, as with DRBD.
func (n *Node) reference(minor int64) *replica.VolumeRef {
	if v := n.minors[int(minor)]; minor >= 0 && v != nil {
		return &replica.VolumeRef{Resource: v.r.name, Volume: v.id}
	}
	return nil
}

// byAddresses finds the resource that a connection belongs to: by its addresses, as
// DRBD's commands name it, or by its name.
func (n *Node) byAddresses(args []string) (*Resource, error) {
	if len(args) == 1 {
		return n.Resource(args[0])
	}
	local, err := parseAddress(args[0])
	if err != nil {
		return nil, err
	}
	remote, err := parseAddress(args[1])
	if err != nil {
		return nil, err
	}
	for _, r := range n.Resources() {
		if c := r.Net(); c != nil && c.Local == local && c.Remote == remote {
			return r, nil
		}
	}
	return nil, failure(CodeInvalid, "unknown connection")
}

// parseMinor reads a minor in any of the forms in which drbdsetup takes it.
func parseMinor(s string) (int, error) {
	t := strings.TrimPrefix(strings.TrimPrefix(s, "/dev/"), "drbd")
	t = strings.TrimPrefix(t, "minor-")
	m, err := strconv.Atoi(t)
	if err != nil || m < 0 || m > 1<<20-1 {
		return 0, usage("Cannot determine minor device number of device %q", s)
	}
	return m, nil
}

// parseAddress reads [AF:]HOST[:PORT] and returns HOST:PORT.
func parseAddress(s string) (string, error) {
	for _, af := range []string{"ipv4:", "ipv6:"} {
		s = strings.TrimPrefix(s, af)
	}
	if strings.HasPrefix(s, "ssocks:") || strings.HasPrefix(s, "sdp:") {
		return "", usage("%s: only the address families ipv4 and ipv6 are supported", s)
	}
	host, port := s, "7788"
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
	}
	if p, err := strconv.Atoi(port); err != nil || p < 1 || p > 65535 || strings.Trim(host, "[]") == "" {
		return "", usage("%q is no address, want [AF:]HOST:PORT", s)
	}
	return host + ":" + port, nil
}

func itoa(n int) string { return strconv.Itoa(n) }

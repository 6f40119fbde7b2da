// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kerneldrbd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Volume is one device of a Resource.
type Volume struct {
	Number int    // as the peer knows it
	Minor  int    // /dev/drbdMINOR
	Disk   string // as "/dev/vda"; empty for a diskless volume
	// MetaDisk is the device for metadata, empty for internal metadata; then
	// MetaIndex is the index, or -1 for flexible external metadata.
	MetaDisk  string
	MetaIndex int
}

// Device returns the path of the replicated device in the guest.
func (v Volume) Device() string { return fmt.Sprintf("/dev/drbd%d", v.Minor) }

// where returns metadata device and index as drbdmeta and drbdsetup-84 want them.
func (v Volume) where() (device, setup string, meta string) {
	switch {
	case v.MetaDisk == "":
		return v.Disk, "internal", "internal"
	case v.MetaIndex < 0:
		return v.MetaDisk, "flexible", "flex-external"
	default:
		return v.MetaDisk, fmt.Sprint(v.MetaIndex), fmt.Sprint(v.MetaIndex)
	}
}

// Resource drives one DRBD resource of a guest. Its fields may be changed between
// commands; it keeps nothing else. Commands that fail return an *ExitError with
// DRBD's message.
type Resource struct {
	Guest   *Guest
	Name    string
	Volumes []Volume
	Port    int // of the guest; one of Options.Ports if the peer is to dial

	// DiskOptions and NetOptions are options of "drbdsetup-84 attach" and "connect",
	// as "--resync-rate=4000".
	DiskOptions, NetOptions []string
}

// run runs a command whose parts have no characters that the shell would change.
func (r *Resource) run(ctx context.Context, format string, args ...any) (string, error) {
	return r.Guest.Run(ctx, fmt.Sprintf(format, args...))
}

// CreateMetadata writes new metadata on the disks of all volumes.
func (r *Resource) CreateMetadata(ctx context.Context) error {
	for _, v := range r.Volumes {
		if _, err := r.Meta(ctx, v, "--force", "create-md"); err != nil {
			return err
		}
	}
	return nil
}

// Meta runs a command of drbdmeta on the metadata of a volume that is not attached.
// The last of args may be several words; those that begin with "-" come first.
func (r *Resource) Meta(ctx context.Context, v Volume, args ...string) (string, error) {
	device, _, index := v.where()
	var options []string
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		options, args = append(options, args[0]), args[1:]
	}
	return r.run(ctx, "drbdmeta %s %d v08 %s %s %s", strings.Join(options, " "), v.Minor, device, index, strings.Join(args, " "))
}

// Up makes the resource with its volumes and attaches the disks. It leaves it
// Secondary and StandAlone.
func (r *Resource) Up(ctx context.Context) error {
	if _, err := r.run(ctx, "drbdsetup-84 new-resource %s", r.Name); err != nil {
		return err
	}
	for _, v := range r.Volumes {
		if _, err := r.run(ctx, "drbdsetup-84 new-minor %s %d %d && { [ -b %s ] || mknod %s b 147 %d; }",
			r.Name, v.Minor, v.Number, v.Device(), v.Device(), v.Minor); err != nil {
			return err
		}
		if v.Disk == "" {
			continue
		}
		if err := r.Attach(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// Attach attaches the disk of a volume, after what the activity log demands.
func (r *Resource) Attach(ctx context.Context, v Volume) error {
	if _, err := r.Meta(ctx, v, "apply-al"); err != nil {
		return err
	}
	device, index, _ := v.where()
	_, err := r.run(ctx, "drbdsetup-84 attach %d %s %s %s %s", v.Minor, v.Disk, device, index, strings.Join(r.DiskOptions, " "))
	return err
}

// Detach detaches the disk of a volume.
func (r *Resource) Detach(ctx context.Context, v Volume, options ...string) error {
	_, err := r.run(ctx, "drbdsetup-84 detach %d %s", v.Minor, strings.Join(options, " "))
	return err
}

// Connect begins to look for the peer, who listens on a port of this host's
// 127.0.0.1. It does not wait for the connection.
func (r *Resource) Connect(ctx context.Context, hostPort int, options ...string) error {
	_, err := r.run(ctx, "drbdsetup-84 connect %s %s %s %s", r.Name, r.addresses(hostPort),
		strings.Join(r.NetOptions, " "), strings.Join(options, " "))
	return err
}

// Disconnect ends the connection, or the search for one.
func (r *Resource) Disconnect(ctx context.Context, hostPort int, options ...string) error {
	_, err := r.run(ctx, "drbdsetup-84 disconnect %s %s", r.addresses(hostPort), strings.Join(options, " "))
	return err
}

func (r *Resource) addresses(hostPort int) string {
	return fmt.Sprintf("%s:%d %s:%d", GuestIP, r.Port, HostIP, hostPort)
}

// Primary promotes all volumes, Secondary demotes them.
func (r *Resource) Primary(ctx context.Context, options ...string) error {
	return r.each(ctx, "primary", options...)
}

// Secondary demotes all volumes.
func (r *Resource) Secondary(ctx context.Context) error { return r.each(ctx, "secondary") }

// Command runs a command of drbdsetup-84 that takes a minor number, as "invalidate",
// for a volume.
func (r *Resource) Command(ctx context.Context, v Volume, command string, options ...string) (string, error) {
	return r.run(ctx, "drbdsetup-84 %s %d %s", command, v.Minor, strings.Join(options, " "))
}

func (r *Resource) each(ctx context.Context, command string, options ...string) error {
	for _, v := range r.Volumes {
		if _, err := r.Command(ctx, v, command, options...); err != nil {
			return err
		}
	}
	return nil
}

// Down disconnects, detaches and removes the resource. What is not there is no error.
func (r *Resource) Down(ctx context.Context) error {
	out, err := r.run(ctx, "drbdsetup-84 down %s", r.Name)
	if err != nil && strings.Contains(out, "Unknown resource") {
		return nil
	}
	return err
}

// State returns what /proc/drbd says about a volume.
func (r *Resource) State(ctx context.Context, v Volume) (Minor, error) {
	list, err := r.Guest.ProcDRBD(ctx)
	if err != nil {
		return Minor{}, err
	}
	for _, m := range list {
		if m.Number == v.Minor {
			return m, nil
		}
	}
	return Minor{Number: v.Minor, Conn: "Unconfigured"}, nil
}

// Wait waits until the first volume is in a state that is wanted, and returns it. It
// looks when the kernel logs something, and from time to time: counters change silently.
func (r *Resource) Wait(ctx context.Context, wanted func(Minor) bool) (Minor, error) {
	var last Minor
	for {
		news := r.Guest.log.news()
		m, err := r.State(ctx, r.Volumes[0])
		switch {
		case err == nil && wanted(m):
			return m, nil
		case err == nil:
			last = m
		case !errors.Is(err, ctx.Err()) || ctx.Err() == nil:
			return m, err
		}
		pause := time.NewTimer(100 * time.Millisecond)
		select {
		case <-news:
			pause.Reset(5 * time.Millisecond) // more lines may follow
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
		if ctx.Err() != nil {
			return last, fmt.Errorf("kerneldrbd: %s is %s, oos %d KiB: %w", r.Name, last.State(), last.Counters["oos"], ctx.Err())
		}
	}
}

// WaitState waits until Minor.State of the first volume is one of those given.
func (r *Resource) WaitState(ctx context.Context, states ...string) (Minor, error) {
	m, err := r.Wait(ctx, func(m Minor) bool {
		for _, s := range states {
			if m.State() == s {
				return true
			}
		}
		return false
	})
	if err != nil {
		err = fmt.Errorf("waiting for %s: %w", strings.Join(states, " or "), err)
	}
	return m, err
}

// ProcDRBD reads /proc/drbd.
func (g *Guest) ProcDRBD(ctx context.Context) ([]Minor, error) {
	out, err := g.Run(ctx, "cat /proc/drbd")
	if err != nil {
		return nil, err
	}
	return ParseProc(out), nil
}

// Copy copies n bytes inside the guest, between devices and past its page cache, in
// requests of size bytes. All numbers are multiples of 512, and n of size.
func (g *Guest) Copy(ctx context.Context, to string, toOffset int64, from string, fromOffset, n, size int64) error {
	_, err := g.Run(ctx, fmt.Sprintf("dd if=%s of=%s bs=%d count=%d skip=%d seek=%d iflag=direct,skip_bytes oflag=direct,seek_bytes conv=notrunc status=none",
		from, to, size, n/size, fromOffset, toOffset))
	return err
}

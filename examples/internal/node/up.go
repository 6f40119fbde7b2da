// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
)

// ResourceConfig is a resource as drbd.conf describes it, seen from this node.
type ResourceConfig struct {
	Name     string
	Options  Options
	Handlers map[string]string // programs with their arguments
	Volumes  []VolumeConfig
	Net      *Net // nil for a resource without a peer
}

// VolumeConfig is one volume of a ResourceConfig.
type VolumeConfig struct {
	Volume, Minor int
	Backing       *Backing // nil for a volume without a disk here
	Options       Options
}

// Up brings a resource into service: new-resource, new-minor, attach and connect in one
// (drbdadm up). What is there already stays as it is; after an error, too.
func (n *Node) Up(ctx context.Context, c ResourceConfig) error {
	r, err := n.Resource(c.Name)
	if err != nil {
		if err := n.NewResource(c.Name, c.Options); err != nil {
			return err
		}
		if r, err = n.Resource(c.Name); err != nil {
			return err
		}
		if err := r.SetHandlers(c.Handlers); err != nil {
			return err
		}
	}
	for _, v := range c.Volumes {
		err := n.NewMinor(c.Name, itoa(v.Minor), itoa(v.Volume))
		if failed := (*Error)(nil); errors.As(err, &failed) && failed.Code == CodeMinorExists {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	if err := n.prepare(r, c.Net); err != nil {
		return err
	}
	var errs []error
	for _, v := range c.Volumes {
		if v.Backing == nil {
			continue
		}
		err := n.Attach(ctx, itoa(v.Minor), *v.Backing, v.Options)
		if failed := (*Error)(nil); errors.As(err, &failed) && failed.Code == CodeAttached {
			err = nil
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s/%d: %w", c.Name, v.Volume, err))
		}
	}
	if c.Net != nil {
		err := n.Connect(ctx, c.Name, nil, ConnectOptions{})
		if failed := (*Error)(nil); errors.As(err, &failed) && failed.Code == CodeHasNet {
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// prepare records the connection before the disks are attached, so that the
// replica.Resource has its options from the start.
func (n *Node) prepare(r *Resource, c *Net) error {
	if c == nil || r.connecting() {
		return nil
	}
	checked, err := c.checked()
	if err == nil {
		err = checked.conflicts(r)
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.net = checked
	return nil
}

// UpByName is Up for a resource of the configuration file, or for all.
func (n *Node) UpByName(ctx context.Context, name string) error {
	if n.cfg.Load == nil {
		return usage("the daemon was started without a configuration file")
	}
	list, err := n.cfg.Load()
	if list == nil {
		return usage("%v", err)
	}
	found := name == "all"
	var errs []error
	if found && err != nil {
		errs = append(errs, usage("%v", err))
	}
	for _, c := range list {
		if name == "all" || name == c.Name {
			found = true
			errs = append(errs, n.Up(ctx, c))
		}
	}
	if !found && err != nil {
		return usage("%v", err)
	}
	if !found {
		return failure(CodeUnknownResource, "%s is not in the configuration, or not on this node", name)
	}
	return errors.Join(errs...)
}

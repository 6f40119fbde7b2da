// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package exports

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
	"github.com/go-blockmirror/blockmirror/examples/nbd"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica"
)

// Server serves the devices of a node.
type Server struct {
	n   *node.Node
	nbd *nbd.Server
	// exported has the device behind each export.
	exported map[string]*node.Device
}

// NewServer returns a server that does nothing before Run.
func NewServer(n *node.Node, cfg nbd.Config) (*Server, error) {
	s, err := nbd.NewServer(cfg)
	if err != nil {
		return nil, err
	}
	return &Server{n: n, nbd: s, exported: map[string]*node.Device{}}, nil
}

// closeTimeout is how long requests that are under way may take at the end.
const closeTimeout = 5 * time.Second

// Run serves on the listeners until ctx ends.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	done := make(chan error, len(listeners))
	watch := s.n.Watch()
	defer watch.Close()
	s.update()
	for _, l := range listeners {
		go func() { done <- s.nbd.Serve(l) }()
	}
	var failed error
	serving := len(listeners)
	for open := true; open; {
		select {
		case failed = <-done:
			serving--
			open = false
		case _, open = <-watch.C():
			s.update()
		case <-ctx.Done():
			open = false
		}
	}
	end, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.nbd.Shutdown(end) != nil {
		_ = s.nbd.Close()
	}
	for range serving {
		<-done
	}
	if errors.Is(failed, nbd.ErrServerClosed) {
		return nil
	}
	return failed
}

// update adds exports of new devices and removes those whose device is gone.
func (s *Server) update() {
	want := map[string]*node.Device{}
	for _, r := range s.n.Resources() {
		volumes := r.Volumes()
		for _, v := range volumes {
			want[v.Device().Name()] = v.Device()
			if len(volumes) == 1 {
				want[r.Name()] = v.Device()
			}
		}
	}
	for name, d := range s.exported {
		if want[name] == d {
			continue
		}
		delete(s.exported, name)
		// Nobody uses a device that could be taken away.
		end, cancel := context.WithTimeout(context.Background(), closeTimeout)
		_ = s.nbd.Remove(end, name)
		cancel()
	}
	for name, d := range want {
		if s.exported[name] == nil && s.nbd.Add(export(name, d)) == nil {
			s.exported[name] = d
		}
	}
}

func export(name string, d *node.Device) nbd.Export {
	return nbd.Export{
		Name: name, Description: "blockmirror " + d.Name(),
		Backend: backend{d}, MinBlock: metadata.SectorSize,
		Open: func(ctx context.Context) error {
			if err := d.Open(ctx); err != nil {
				return fmt.Errorf("%w: %w", nbd.EPERM, err)
			}
			return nil
		},
		Close: func() error { d.Close(); return nil },
	}
}

// backend is a device as nbd.Backend, nbd.Trimmer and nbd.ZeroWriter.
type backend struct{ d *node.Device }

func (b backend) Size() int64 { return b.d.Size() }

func (b backend) ReadAt(ctx context.Context, p []byte, off int64) error {
	_, err := b.d.ReadAtContext(ctx, p, off)
	return translate(err)
}

func (b backend) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	write := b.d.WriteAtContext
	if fua {
		write = b.d.WriteFUA
	}
	_, err := write(ctx, p, off)
	return translate(err)
}

func (b backend) Flush(ctx context.Context) error { return translate(b.d.Flush(ctx)) }

func (b backend) Trim(ctx context.Context, off, n int64) error {
	return translate(b.d.Discard(ctx, off, n))
}

func (b backend) WriteZeroes(ctx context.Context, off, n int64, how nbd.ZeroFlags) error {
	if how.NoHole {
		return translate(b.d.WriteZeroes(ctx, off, n))
	}
	return translate(b.d.WriteZeroes(ctx, off, n, replica.MayUnmap()))
}

// translate puts the number that the client is to see in front of an error; what is
// not here is EIO.
func translate(err error) error {
	for _, t := range []struct {
		is    error
		errno nbd.Errno
	}{
		{replica.ErrNotPrimary, nbd.EPERM},
		{replica.ErrClosed, nbd.ESHUTDOWN},
		{node.ErrGone, nbd.ESHUTDOWN},
		{replica.ErrAlignment, nbd.EINVAL},
		{replica.ErrRange, nbd.EINVAL},
	} {
		if errors.Is(err, t.is) {
			return fmt.Errorf("%w: %w", t.errno, err)
		}
	}
	return err
}

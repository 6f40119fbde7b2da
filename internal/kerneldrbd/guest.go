// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kerneldrbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// The addresses of the guest's network. Nothing else is on it.
const (
	GuestIP = "10.0.2.15" // the guest
	HostIP  = "10.0.2.2"  // this host's 127.0.0.1, as the guest sees it
)

var (
	// ErrDown: the guest does not run, because it crashed or was closed. What it
	// said last is part of the message.
	ErrDown = errors.New("kerneldrbd: the guest is down")
	// ErrBusy: all command channels are taken by commands that hang.
	ErrBusy = errors.New("kerneldrbd: all command channels of the guest hang")
)

// Disk is a disk of the guest.
type Disk struct {
	// Path is a raw file on this host that exists; its length is the disk's.
	Path string
	// BlockSize is the logical block size, 512 (also if 0) or 4096.
	BlockSize int
	// FailSector, if it is not 0, is a sector of 512 bytes. The first request of the
	// guest that touches it, after each boot, fails with an I/O error.
	FailSector int64
}

// Options describe a guest. The zero value is a guest without disks.
type Options struct {
	// Disks are /dev/vda, /dev/vdb and so on in the guest, 24 at most.
	Disks []Disk
	// Ports are the TCP ports of the guest that HostPort leads to. Nil means 7788
	// to 7791.
	Ports []int
	// CPUs is the number of virtual processors, 0 means 1: the test needs the others.
	CPUs int
	// Programs are programs of this host that the guest has too, in /sbin, with the
	// libraries that they are linked to.
	Programs []string
	// MemoryMiB is the guest's memory, 0 means 512.
	MemoryMiB int
}

func (o Options) withDefaults() Options {
	if o.Ports == nil {
		o.Ports = []int{7788, 7789, 7790, 7791}
	}
	if o.CPUs == 0 {
		o.CPUs = 1
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 512
	}
	return o
}

// Guest is a virtual machine with DRBD loaded and nothing configured. Its methods are
// safe for concurrent use, except that Crash, Restart and Close exclude each other.
type Guest struct {
	opts  Options
	dir   string // scratch folder: the initial file system
	image image
	ports map[int]int // guest port to port of this host
	log   *kernelLog

	mu sync.Mutex
	vm *machine // nil while down
}

// Start boots a guest and waits until it takes commands. ctx limits the boot only. The
// guest lives until Close, or until this process ends.
func Start(ctx context.Context, opts Options) (*Guest, error) {
	g := &Guest{opts: opts.withDefaults(), ports: map[int]int{}, log: newKernelLog()}
	if len(g.opts.Disks) > 24 {
		return nil, fmt.Errorf("kerneldrbd: %d disks, 24 is the limit", len(g.opts.Disks))
	}
	img, err := prepareImage(ctx)
	if err != nil {
		return nil, err
	}
	if g.dir, err = os.MkdirTemp("", "kerneldrbd"); err != nil {
		return nil, err
	}
	g.image = image{kernel: img.kernel, initrd: filepath.Join(g.dir, "initrd")}
	if err = writeInitrd(g.image.initrd, img, g.opts.Programs); err == nil {
		err = g.choosePorts()
	}
	if err == nil {
		err = g.boot(ctx)
	}
	if err != nil {
		_ = os.RemoveAll(g.dir)
		return nil, err
	}
	return g, nil
}

// choosePorts finds a free port of this host for each forwarded port of the guest.
// They stay the same over restarts.
func (g *Guest) choosePorts() error {
	for _, p := range g.opts.Ports {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		// All are held until all are chosen, so that they differ.
		defer ln.Close()
		g.ports[p] = ln.Addr().(*net.TCPAddr).Port
	}
	return nil
}

func (g *Guest) boot(ctx context.Context) error {
	vm, err := startMachine(ctx, g)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.vm = vm
	g.mu.Unlock()
	return nil
}

// machine returns the running machine, or ErrDown.
func (g *Guest) machine() (*machine, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.vm == nil {
		return nil, ErrDown
	}
	return g.vm, nil
}

// HostPort returns the port of 127.0.0.1 that leads to a port of the guest, one of
// Options.Ports. While nothing listens there in the guest, a connection to it is
// accepted and then closed: the emulated network finds out too late to refuse it.
func (g *Guest) HostPort(guestPort int) int { return g.ports[guestPort] }

// Crash ends the guest as a power failure does. What the guest had written to its disks
// stays; what it was about to write is lost, maybe in part.
func (g *Guest) Crash() error {
	g.mu.Lock()
	vm := g.vm
	g.vm = nil
	g.mu.Unlock()
	if vm == nil {
		return ErrDown
	}
	vm.kill()
	return nil
}

// Pause stops the guest's clock and processors: to its peer it hangs. Resume lets it go on.
func (g *Guest) Pause() error { return g.signal(syscall.SIGSTOP) }

// Resume ends Pause.
func (g *Guest) Resume() error { return g.signal(syscall.SIGCONT) }

func (g *Guest) signal(s syscall.Signal) error {
	vm, err := g.machine()
	if err != nil {
		return err
	}
	return vm.process.Signal(s)
}

// Restart boots the guest again, with the same disks and ports. A guest that runs is
// crashed before.
func (g *Guest) Restart(ctx context.Context) error {
	if err := g.Crash(); err != nil && !errors.Is(err, ErrDown) {
		return err
	}
	g.log.note("kerneldrbd: restart")
	return g.boot(ctx)
}

// Close ends the guest and removes its scratch files. The disks stay.
func (g *Guest) Close() error {
	if err := g.Crash(); err != nil && !errors.Is(err, ErrDown) {
		return err
	}
	g.log.close()
	return os.RemoveAll(g.dir)
}

// Console returns what the guest wrote to its console since the last boot: kernel
// warnings and panics. It is for messages about failures.
func (g *Guest) Console() string {
	vm, err := g.machine()
	if err != nil {
		return ""
	}
	return vm.console.String()
}

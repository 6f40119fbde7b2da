// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kerneldrbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// commandPorts is how many commands can run at one time. One more port is kept to
// kill commands with.
const commandPorts = 4

// machine is one run of QEMU.
type machine struct {
	process *os.Process
	exited  chan struct{} // closed when QEMU has ended
	console tailBuffer
	idle    chan *port // command ports without a command
	killer  *port
	killing sync.Mutex // held while killer is used
	monitor monitor
	conns   []net.Conn
	readers sync.WaitGroup
}

// startMachine starts QEMU and waits until the guest serves all its ports.
func startMachine(ctx context.Context, g *Guest) (*machine, error) {
	vm := &machine{exited: make(chan struct{}), idle: make(chan *port, commandPorts)}
	var files []*os.File // the guest's ends of the ports
	const ports = 1 + commandPorts + 1
	for range ports + 1 { // and the monitor
		conn, file, err := socketPair()
		if err != nil {
			return nil, err
		}
		defer file.Close()
		vm.conns = append(vm.conns, conn)
		files = append(files, file)
	}
	path, err := findProgram(qemu)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, g.arguments(ports)...)
	cmd.ExtraFiles = files
	cmd.Stdout, cmd.Stderr = &vm.console, &vm.console
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := vm.start(cmd); err != nil {
		return nil, fmt.Errorf("kerneldrbd: %w", err)
	}
	vm.monitor.conn = vm.conns[ports]
	vm.readers.Go(func() { g.log.read(vm.conns[0]) })
	var agents []*port
	for i, conn := range vm.conns[1:ports] {
		p := newPort(i+2, conn)
		vm.readers.Go(p.read)
		agents = append(agents, p)
	}
	// Each agent of the guest begins with an empty result.
	for _, p := range agents {
		if _, err := p.result(ctx); err != nil {
			console := vm.console.String()
			vm.kill()
			return nil, fmt.Errorf("kerneldrbd: the guest did not start: %w\n%s", err, console)
		}
	}
	vm.killer = agents[commandPorts]
	for _, p := range agents[:commandPorts] {
		vm.idle <- p
	}
	return vm, nil
}

// start starts QEMU on a thread that lives as long as QEMU does: the signal that kills
// QEMU is sent when that thread ends, and so must not be sent before the process ends.
func (vm *machine) start(cmd *exec.Cmd) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this function
		err := cmd.Start()
		vm.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait()
		close(vm.exited)
	}()
	return <-started
}

// kill ends QEMU and everything that reads from it.
func (vm *machine) kill() {
	_ = vm.process.Kill()
	<-vm.exited
	for _, c := range vm.conns {
		_ = c.Close()
	}
	vm.readers.Wait()
}

// arguments are QEMU's. The ports are inherited as file descriptors from 3 on, the monitor
// after them.
func (g *Guest) arguments(ports int) []string {
	args := []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-M", "pc",
		"-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", strconv.Itoa(g.opts.CPUs), "-m", strconv.Itoa(g.opts.MemoryMiB),
		"-kernel", g.image.kernel, "-initrd", g.image.initrd,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off printk.devkmsg=on log_buf_len=4M " +
			"nokaslr cryptomgr.notests no_timer_check random.trust_cpu=on rcupdate.rcu_expedited=1 nowatchdog acpi=off",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-device", "virtio-serial-pci,addr=3",
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", 3+ports), "-mon", "chardev=monitor,mode=control",
	}
	for i := range ports {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=port%d,fd=%d", i, 3+i),
			"-device", fmt.Sprintf("virtserialport,chardev=port%d,nr=%d", i, 1+i))
	}
	netdev := "user,id=net"
	for _, p := range g.opts.Ports {
		netdev += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-%s:%d", g.ports[p], GuestIP, p)
	}
	args = append(args, "-netdev", netdev, "-device", "virtio-net-pci,netdev=net,romfile=,addr=4")
	for i, d := range g.opts.Disks {
		size := d.BlockSize
		if size == 0 {
			size = 512
		}
		// A power failure of the guest is not one of this host: what QEMU has written
		// is safe, and flushes need not reach this host's disk.
		drive := "format=raw,file.locking=off,file.filename=" + strings.ReplaceAll(d.Path, ",", ",,")
		if d.FailSector != 0 {
			drive = fmt.Sprintf("driver=blkdebug,inject-error.0.event=none,inject-error.0.sector=%d,inject-error.0.once=on,"+
				"image.driver=raw,image.file.driver=file,image.file.locking=off,image.file.filename=%s",
				d.FailSector, strings.ReplaceAll(d.Path, ",", ",,"))
		}
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=disk%d,cache=unsafe,discard=unmap,%s", i, drive),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,serial=disk%d,logical_block_size=%d,physical_block_size=%d,addr=%#x",
				i, i, size, size, 5+i))
	}
	return args
}

// socketPair returns the two ends of a stream: one for us, one to be inherited.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "port")
	conn, err := net.FileConn(ours) // duplicates it
	err = errors.Join(err, ours.Close())
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}

// tailBuffer keeps the last part of what is written to it.
type tailBuffer struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 64 << 10

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 2*tailBytes {
		t.b = append([]byte(nil), t.b[len(t.b)-tailBytes:]...)
	}
	return len(p), nil
}

// String returns the text without the carriage returns of a console.
func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.ReplaceAll(t.b, []byte("\r"), nil))
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kerneldrbd

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The guest's scripts: its init, what serves a command port, and what the kernel calls
// as usermode helper.
//
//go:embed guest-init.sh
var initScript string

//go:embed guest-agent.sh
var agentScript string

//go:embed guest-helper.sh
var helperScript string

// writeInitrd writes the guest's whole file system, a cpio archive, to a file.
func writeInitrd(file string, img image, programs []string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := bufio.NewWriterSize(f, 1<<20)
	// Not compressed: under emulation reading is cheaper than inflating.
	c := &cpioWriter{w: buf, dirs: map[string]bool{}}
	c.text("/init", initScript)
	c.text("/sbin/agent", agentScript)
	c.text("/sbin/drbd-helper", helperScript)
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/etc", "/var/lock", "/var/lib/drbd"} {
		c.dir(dir)
	}
	var order strings.Builder
	for i, m := range img.modules {
		c.file("/modules/"+filepath.Base(m), m)
		if i < len(modules) {
			fmt.Fprintln(&order, modules[i])
		}
	}
	c.text("/modules/order", order.String())
	c.program("/bin/busybox", busybox)
	c.program("/sbin/drbdmeta", drbdmeta)
	c.program("/sbin/drbdsetup-84", drbdsetup)
	c.program("/sbin/zero-range", "blkdiscard") // busybox' own knows no -z
	for _, p := range programs {
		c.program("/sbin/"+filepath.Base(p), p)
	}
	c.entry("TRAILER!!!", 0, nil)
	return errors.Join(c.err, buf.Flush())
}

// cpioWriter writes an archive in the format that the kernel unpacks ("newc").
type cpioWriter struct {
	w     io.Writer
	inode int
	dirs  map[string]bool
	err   error // the first one
}

const (
	cpioDir  = 0o40755
	cpioFile = 0o100755
)

func (c *cpioWriter) entry(name string, mode int, data []byte) {
	if c.err != nil {
		return
	}
	c.inode++
	var b strings.Builder
	b.WriteString("070701")
	for _, v := range []int{c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0} {
		fmt.Fprintf(&b, "%08X", v)
	}
	b.WriteString(name)
	b.WriteString(strings.Repeat("\x00", 1+pad4(b.Len()+1)))
	_, c.err = io.WriteString(c.w, b.String())
	if c.err == nil {
		_, c.err = c.w.Write(append(slices.Clip(data), make([]byte, pad4(len(data)))...))
	}
}

// pad4 returns how many bytes fill n up to a multiple of 4.
func pad4(n int) int { return -n & 3 }

// dir makes a folder and those above it.
func (c *cpioWriter) dir(name string) {
	if name == "/" || c.dirs[name] {
		return
	}
	c.dir(path.Dir(name))
	c.dirs[name] = true
	c.entry(name[1:], cpioDir, nil)
}

func (c *cpioWriter) text(name, content string) {
	c.dir(path.Dir(name))
	c.entry(name[1:], cpioFile, []byte(content))
}

// file copies a file of this host.
func (c *cpioWriter) file(name, source string) {
	data, err := os.ReadFile(source)
	if err != nil {
		c.err = errors.Join(c.err, err)
		return
	}
	c.text(name, string(data))
}

var libraryPath = regexp.MustCompile(`(/\S+) \(0x`)

// program copies a program of this host, with the libraries it needs.
func (c *cpioWriter) program(name, source string) {
	source, err := findProgram(source)
	if err != nil {
		c.err = errors.Join(c.err, err)
		return
	}
	c.file(name, source)
	// ldd fails for a static program.
	out, _ := exec.Command("ldd", source).Output()
	for _, m := range libraryPath.FindAllStringSubmatch(string(out), -1) {
		if !c.dirs[m[1]] {
			c.dirs[m[1]] = true
			c.file(m[1], m[1])
		}
	}
}

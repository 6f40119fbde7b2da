// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kerneldrbd

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// modules are inserted in this order. What a module needs stands before it;
// crc32c_generic is what libcrc32c looks for when it is initialised.
var modules = []string{
	"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
	"virtio_console", "virtio_blk", "failover", "net_failover", "virtio_net",
	"crc32c_generic", "libcrc32c", "xxhash_generic", "lru_cache", "drbd",
}

// optional modules are in the guest's /modules too; who needs one inserts it.
var optional = []string{"nbd"}

// wanted returns the names of all files of a complete kernel.
func wanted() []string {
	names := []string{kernelFile}
	for _, m := range slices.Concat(modules, optional) {
		names = append(names, m+".ko")
	}
	return names
}

// metaPackage depends on the package of the present kernel.
const metaPackage = "linux-image-amd64"

// Programs that go into the guest, and those that are used here.
const (
	busybox    = "busybox"
	drbdmeta   = "drbdmeta"
	drbdsetup  = "/usr/lib/drbd/drbdsetup-84"
	qemu       = "qemu-system-x86_64"
	systemPath = "/usr/sbin:/sbin:/usr/bin:/bin"
)

// image is what a guest boots from.
type image struct {
	kernel  string   // file
	initrd  string   // file
	modules []string // files, in the order of the lists modules and optional
}

// Available returns an empty string if guests can be started here, else what is
// missing and how to get it. It does not download the kernel.
func Available() string {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "386" {
		return "the guest is an amd64 machine and gets its programs from this host, which is " + runtime.GOARCH
	}
	for _, tool := range []struct{ file, pkg string }{
		{qemu, "qemu-system-x86"}, {busybox, "busybox-static"}, {drbdmeta, "drbd-utils"}, {drbdsetup, "drbd-utils"},
	} {
		if _, err := findProgram(tool.file); err != nil {
			return fmt.Sprintf("%s is not here: install the Debian package %s", tool.file, tool.pkg)
		}
	}
	if cached, err := cachedKernels(); err == nil && len(cached) > 0 {
		return ""
	}
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb", "xz"} {
		if _, err := findProgram(tool); err != nil {
			return fmt.Sprintf("there is no kernel in the cache, and without %s none can be fetched", tool)
		}
	}
	return ""
}

// Require skips the test if guests cannot be started here, or fails it if the
// environment variable CI is set: there everything has to be installed.
func Require(t testing.TB) {
	t.Helper()
	reason := Available()
	switch {
	case reason == "":
	case os.Getenv("CI") != "":
		t.Fatalf("needs a guest with the kernel's DRBD: %s", reason)
	default:
		t.Skipf("needs a guest with the kernel's DRBD: %s", reason)
	}
}

// findProgram looks where root's programs are too.
func findProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range filepath.SplitList(systemPath) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("kerneldrbd: there is no program %s", name)
}

// cacheDir is where kernels are kept.
func cacheDir() (string, error) {
	if dir := os.Getenv("BLOCKMIRROR_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("kerneldrbd: no cache folder, set BLOCKMIRROR_CACHE: %w", err)
	}
	return filepath.Join(dir, "blockmirror-kerneldrbd"), nil
}

const kernelFile = "vmlinuz"

// cachedKernels returns the folders of complete kernels.
func cachedKernels() ([]string, error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	found, err := filepath.Glob(filepath.Join(dir, "linux-image-*", kernelFile))
	if err != nil {
		return nil, err
	}
	var complete []string
	for _, file := range found {
		dir := filepath.Dir(file)
		if !slices.ContainsFunc(wanted(), func(name string) bool {
			_, err := os.Stat(filepath.Join(dir, name))
			return err != nil
		}) {
			complete = append(complete, dir)
		}
	}
	return complete, nil
}

// prepareImage returns a kernel and its modules, from the cache if it has one.
func prepareImage(ctx context.Context) (image, error) {
	if reason := Available(); reason != "" {
		return image{}, errors.New("kerneldrbd: " + reason)
	}
	cached, err := cachedKernels()
	if err != nil {
		return image{}, err
	}
	var dir string
	if len(cached) > 0 {
		dir = slices.Max(cached)
	} else if dir, err = fetchKernel(ctx); err != nil {
		return image{}, err
	}
	img := image{kernel: filepath.Join(dir, kernelFile)}
	for _, name := range slices.Concat(modules, optional) {
		img.modules = append(img.modules, filepath.Join(dir, name+".ko"))
	}
	return img, nil
}

// fetchKernel downloads the kernel's package and unpacks what is needed of it. Of
// several processes that want to, one does and the others wait.
func fetchKernel(ctx context.Context) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if cached, err := cachedKernels(); err != nil || len(cached) > 0 {
		return slices.Max(append(cached, "")), err
	}
	name, err := kernelPackage(ctx)
	if err != nil {
		return "", err
	}
	temp, err := os.MkdirTemp(cache, "download")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	get := exec.CommandContext(ctx, "apt-get", "download", "-q", name)
	get.Dir = temp
	if out, err := get.CombinedOutput(); err != nil {
		return "", fmt.Errorf("kerneldrbd: apt-get download %s: %w\n%s", name, err, out)
	}
	debs, _ := filepath.Glob(filepath.Join(temp, "*.deb"))
	if len(debs) != 1 {
		return "", fmt.Errorf("kerneldrbd: apt-get download %s left %d packages", name, len(debs))
	}
	unpacked := filepath.Join(temp, "unpacked")
	if err := unpackKernel(ctx, debs[0], unpacked); err != nil {
		return "", err
	}
	if err := decompressKernel(ctx, filepath.Join(unpacked, kernelFile)); err != nil {
		return "", err
	}
	dir := filepath.Join(cache, strings.TrimSuffix(filepath.Base(debs[0]), ".deb"))
	if err := os.Rename(unpacked, dir); err == nil { // the last step: what has the name is complete
		return dir, nil
	}
	// It is there, from a time when fewer modules were wanted.
	var errs []error
	for _, name := range wanted() {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			errs = append(errs, os.Rename(filepath.Join(unpacked, name), filepath.Join(dir, name)))
		}
	}
	return dir, errors.Join(errs...)
}

// decompressKernel replaces a compressed kernel by what is in it, which QEMU starts too.
// Under emulation the kernel takes four seconds to decompress itself. A kernel that is
// compressed in another way than Debian's stays as it is.
func decompressKernel(ctx context.Context, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	// The header of the boot protocol, version 2.08.
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" {
		return nil
	}
	from := (int64(b[0x1f1])+1)*512 + int64(binary.LittleEndian.Uint32(b[0x248:]))
	if to := from + int64(binary.LittleEndian.Uint32(b[0x24c:])); to > int64(len(b)) || !bytes.HasPrefix(b[from:to], []byte("\xfd7zXZ\x00")) {
		return nil
	}
	xz := exec.CommandContext(ctx, "xz", "--decompress", "--stdout", "--single-stream")
	xz.Stdin = bytes.NewReader(b[from:])
	plain, err := xz.Output()
	if err != nil {
		return fmt.Errorf("kerneldrbd: xz: %w", err)
	}
	return os.WriteFile(file, plain, 0o644)
}

// kernelPackage returns the name of the package that has the present kernel.
func kernelPackage(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", metaPackage).Output()
	if err != nil {
		return "", fmt.Errorf("kerneldrbd: apt-cache depends %s (is it Debian, was there an apt-get update?): %w", metaPackage, err)
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("kerneldrbd: %s depends on no kernel:\n%s", metaPackage, out)
}

// unpackKernel copies the kernel and the modules out of a package.
func unpackKernel(ctx context.Context, deb, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	missing, err := copyKernel(tar.NewReader(bufio.NewReaderSize(pipe, 1<<20)), dir)
	if _, rest := io.Copy(io.Discard, pipe); err == nil {
		err = rest
	}
	if wait := cmd.Wait(); err == nil {
		err = wait
	}
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("it has no %s", strings.Join(missing, ", "))
	}
	if err != nil {
		return fmt.Errorf("kerneldrbd: unpack %s: %w", filepath.Base(deb), err)
	}
	return nil
}

// copyKernel takes the files that are wanted from a package's content, and returns
// the names of those it does not have.
func copyKernel(tr *tar.Reader, dir string) (missing []string, err error) {
	missing = wanted()
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return missing, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Base(h.Name)
		if strings.HasPrefix(name, kernelFile+"-") {
			name = kernelFile
		}
		i := slices.Index(missing, name)
		if i < 0 || !h.FileInfo().Mode().IsRegular() {
			continue
		}
		missing = slices.Delete(missing, i, i+1)
		if err := copyFile(filepath.Join(dir, name), tr); err != nil {
			return nil, err
		}
	}
}

func copyFile(name string, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, fs.FileMode(0o644))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

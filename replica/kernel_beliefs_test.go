// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/stretchr/testify/require"
)

// belief is what a node makes of a disk that it attaches without its peer.
type belief struct {
	Disk, PeerDisk string
	OutOfSync      int64
	// IDs are current, bitmap and history, without bit 0 of the history.
	IDs [4]uint64
}

// diskImage is a disk with its metadata, as files would have it; meta is nil for
// internal metadata.
type diskImage struct{ data, meta []byte }

// nodeImage and kernelImage copy the disk of a side that does not use it now.
func (d *duo) nodeImage() diskImage {
	d.t.Helper()
	read := func(dev blockdev.Device) []byte {
		b := make([]byte, dev.Size())
		_, err := dev.ReadAt(b, 0)
		require.NoError(d.t, err)
		return b
	}
	img := diskImage{data: read(d.disks[0])}
	if d.opts.external() {
		img.meta = read(d.metas[0])[:d.opts.metaBytes(d.lab)]
	}
	return img
}

func (d *duo) kernelImage() diskImage {
	d.t.Helper()
	var img diskImage
	var err error
	img.data, err = os.ReadFile(d.lab.disks[d.opts.at])
	require.NoError(d.t, err)
	if d.opts.external() {
		img.meta, err = os.ReadFile(d.lab.disks[d.opts.metaDisk()])
		require.NoError(d.t, err)
		img.meta = img.meta[:d.opts.metaBytes(d.lab)]
	}
	return img
}

// giveKernel and giveNode write an image to a side's disk.
func (d *duo) giveKernel(img diskImage) {
	d.t.Helper()
	writeSparse(d.t, d.lab.disks[d.opts.at], img.data, d.lab.size(d.opts.at))
	if d.opts.external() {
		writeSparse(d.t, d.lab.disks[d.opts.metaDisk()], img.meta, d.lab.size(d.opts.metaDisk()))
	}
}

// writeSparse replaces what a file holds, without the parts that are zero: most of an image is.
func writeSparse(t testing.TB, path string, data []byte, size int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(0))
	require.NoError(t, f.Truncate(size))
	var zero [64 << 10]byte
	for off := 0; off < len(data); off += len(zero) {
		part := data[off:min(off+len(zero), len(data))]
		if !bytes.Equal(part, zero[:len(part)]) {
			_, err := f.WriteAt(part, int64(off))
			require.NoError(t, err)
		}
	}
	require.NoError(t, f.Close())
}

// metaBytes is how much of a device for external metadata belongs to the volume.
func (o *duoOptions) metaBytes(lab *kernelLab) int64 {
	if o.meta == "indexed" {
		return 128 << 20 // index 0
	}
	return lab.size(o.metaDisk())
}

func (d *duo) giveNode(img diskImage) {
	d.t.Helper()
	require.NoError(d.t, blockdev.WriteAt(d.disks[0], img.data, 0))
	if d.opts.external() {
		require.NoError(d.t, blockdev.WriteAt(d.metas[0], img.meta, 0))
	}
}

// kernelBelief attaches an image with the kernel, as drbdadm would: after apply-al.
func (d *duo) kernelBelief(img diskImage) belief {
	d.t.Helper()
	d.giveKernel(img)
	require.NoError(d.t, d.kernel.Up(d.ctx))
	m := d.waitKernel(func(m kerneldrbd.Minor) bool { return m.Disk != "Attaching" && m.Disk != "Diskless" })
	b := belief{Disk: m.Disk, PeerDisk: m.PeerDisk, OutOfSync: m.OutOfSync()}
	out, err := d.kernel.Command(d.ctx, d.kernel.Volumes[0], "get-gi")
	require.NoError(d.t, err)
	_, err = fmt.Sscanf(strings.ReplaceAll(strings.TrimSpace(out), ":", " "), "%X %X %X %X", &b.IDs[0], &b.IDs[1], &b.IDs[2], &b.IDs[3])
	require.NoError(d.t, err, out)
	require.NoError(d.t, d.kernel.Down(d.ctx))
	return b
}

// nodeBelief attaches an image with a node of its own.
func (d *duo) nodeBelief(img diskImage) belief {
	d.t.Helper()
	disk := blockdev.NewMemory(int64(len(img.data)))
	require.NoError(d.t, blockdev.WriteAt(disk, img.data, 0))
	v := replica.VolumeConfig{Disk: disk, MetaDisk: d.opts.location()}
	if d.opts.external() {
		meta := blockdev.NewMemory(int64(len(img.meta)))
		require.NoError(d.t, blockdev.WriteAt(meta, img.meta, 0))
		v.MetaDevice = meta
	}
	res, err := replica.Open(d.ctx, replica.Config{Name: "belief", Volumes: []replica.VolumeConfig{v}})
	require.NoError(d.t, err)
	st, _ := res.Status().Volume(0)
	require.NoError(d.t, res.Close())
	return belief{
		Disk: st.State.Disk.String(), PeerDisk: st.State.PeerDisk.String(), OutOfSync: st.OutOfSync,
		IDs: [4]uint64{uint64(st.IDs.Current), uint64(st.IDs.Bitmap), uint64(st.IDs.History[0]), uint64(st.IDs.History[1])},
	}
}

// applyHere is apply-al by package metadata, applyThere by the real drbdmeta.
func (d *duo) applyHere(img diskImage) diskImage {
	d.t.Helper()
	return d.applyWith(img, func(path string, size int64) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(d.t, err)
		_, err = metadata.ApplyAL(f, d.opts.location(), size)
		require.NoError(d.t, err)
		require.NoError(d.t, f.Close())
	})
}

func (d *duo) applyThere(img diskImage) diskImage {
	d.t.Helper()
	return d.applyWith(img, func(path string, _ int64) {
		where := map[string]string{"": "internal", "flexible": "flex-external", "indexed": "0"}[d.opts.meta]
		out, err := exec.CommandContext(d.ctx, "/usr/sbin/drbdmeta", "--force", "0", "v08", path, where, "apply-al").CombinedOutput()
		require.NoError(d.t, err, string(out))
	})
}

func (d *duo) applyWith(img diskImage, apply func(path string, size int64)) diskImage {
	d.t.Helper()
	md := &img.data
	if d.opts.external() {
		md = &img.meta
	}
	path := filepath.Join(d.t.TempDir(), "disk")
	writeSparse(d.t, path, *md, int64(len(*md)))
	apply(path, int64(len(*md)))
	var err error
	*md, err = os.ReadFile(path)
	require.NoError(d.t, err)
	return img
}

// requireSameBelief attaches an image with either, after apply-al by either.
func (d *duo) requireSameBelief(img diskImage) belief {
	d.t.Helper()
	want := d.kernelBelief(img)
	for name, prepared := range map[string]diskImage{"": img, " after our apply-al": d.applyHere(img), " after drbdmeta's apply-al": d.applyThere(img)} {
		require.Equal(d.t, want, d.nodeBelief(prepared), "the kernel and the node%s differ", name)
	}
	require.Equal(d.t, want, d.kernelBelief(d.applyHere(img)), "the kernel differs after our apply-al")
	return want
}

// kernelBeliefs: a disk that either side has left, orderly or not, means the same to both.
func kernelBeliefs(t *testing.T, lab *kernelLab) {
	for _, meta := range []string{"", "flexible", "indexed"} {
		name := map[string]string{"": "internal"}[meta] + meta
		lab.part(t, kernelActs, "kernel crashed, "+name, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{mayBreak: true, meta: meta})
			d.connect()
			require.NoError(t, d.kernel.Primary(d.ctx))
			d.kernelWrite(0, 5<<20, 0, 64<<10, 4096)
			if meta == "flexible" { // out of sync already, beside what the log says
				d.disconnect(false)
				d.kernelWrite(0, 17<<20, 0, 3*4096, 4096)
			}
			d.waitNode(func(st replica.VolumeStatus) bool {
				return st.State.Conn != protocol.Connected || st.Received >= 64<<10
			})
			require.NoError(t, lab.guest.Crash())
			d.waitNode(func(st replica.VolumeStatus) bool { return st.State.Conn != protocol.Connected })
			img := d.kernelImage()
			require.NoError(t, lab.guest.Restart(d.ctx))
			b := d.requireSameBelief(img)
			require.Equal(t, "UpToDate", b.Disk)
			require.GreaterOrEqual(t, b.OutOfSync, int64(extentBytes))
		})
		lab.part(t, nodeActs, "node crashed, "+name, func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{mayBreak: true, meta: meta})
			d.connect()
			require.NoError(t, d.node.Promote(d.ctx))
			d.nodeWrite(0, 5<<20, 0, 64<<10)
			if meta == "flexible" {
				d.disconnect(true)
				d.nodeWrite(0, 17<<20, 0, 3*4096)
			}
			img := d.nodeImage() // what a crash at this moment leaves
			d.killNode()
			require.NoError(t, d.kernel.Down(d.ctx))
			b := d.requireSameBelief(img)
			require.Equal(t, "UpToDate", b.Disk)
			require.GreaterOrEqual(t, b.OutOfSync, int64(extentBytes))
		})
	}
	// Targets of a resync that was cut are Inconsistent to both; those who left in
	// order are UpToDate.
	for _, side := range []string{"node", "kernel"} {
		lab.part(t, kernelSide(side), side+" was a target", func(t *testing.T) {
			d := newDuo(t, lab, duoOptions{mayBreak: true, fresh: true,
				disk:   []string{"--resync-rate=4000"},
				config: func(cfg *replica.Config) { cfg.Volumes[0].Resync = replica.ResyncConfig{PlanAhead: -1, Rate: 4 << 20} },
			})
			if side == "kernel" {
				require.NoError(t, d.node.Promote(d.ctx, replica.Force()))
			} else {
				require.NoError(t, d.kernel.Primary(d.ctx, "--force"))
			}
			d.connect()
			d.waitNode(func(st replica.VolumeStatus) bool { return st.OutOfSync < 20<<20 && st.OutOfSync > 0 })
			require.NoError(t, d.node.Disconnect(d.ctx))
			require.NoError(t, d.node.Demote(d.ctx))
			require.NoError(t, d.node.Close())
			require.NoError(t, d.kernel.Down(d.ctx))
			nodeHas, kernelHas := d.nodeImage(), d.kernelImage()
			node, kernel := d.requireSameBelief(nodeHas), d.requireSameBelief(kernelHas)
			require.ElementsMatch(t, []string{"Inconsistent", "UpToDate"}, []string{node.Disk, kernel.Disk})
			require.NotZero(t, node.OutOfSync)
			require.Equal(t, node.OutOfSync, kernel.OutOfSync)
		})
	}
}

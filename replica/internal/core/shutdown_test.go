// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"bytes"
	"io"
	"testing"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/stretchr/testify/require"
)

// ram is a disk in memory.
type ram []byte

func (r ram) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(r).ReadAt(p, off) }
func (r ram) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(len(r)) {
		return 0, io.ErrShortWrite
	}
	return copy(r[off:], p), nil
}

// TestShutdownOfVolumes: the disks of several volumes are detached at different times,
// and the shell gets back nothing but the command that it gave.
func TestShutdownOfVolumes(t *testing.T) {
	disks := []ram{make(ram, 1<<20), make(ram, 1<<20), make(ram, 1<<20)}
	cfg := Config{Name: "r0", Rand: func() uint64 { return 7 }}
	for i := range disks {
		cfg.Volumes = append(cfg.Volumes, VolumeConfig{Number: uint16(i)})
	}
	c, err := New(cfg)
	require.NoError(t, err)

	var eff Effects
	var commands []*Command
	// run performs what the core asks for, one operation at a time, the last first.
	run := func() {
		var ops []*Op
		for first := true; first || len(ops) > 0; first = false {
			if n := len(ops) - 1; n >= 0 {
				o := ops[n]
				ops = ops[:n]
				switch o.Kind {
				case OpRead:
					_, o.Err = disks[o.Volume].ReadAt(o.Buf, o.Off)
				case OpWrite:
					_, o.Err = disks[o.Volume].WriteAt(o.Buf, o.Off)
				}
				c.OpDone(o)
			}
			eff.Reset()
			c.Take(&eff)
			ops = append(ops, eff.Ops...)
			commands = append(commands, eff.Commands...)
		}
	}
	for i, d := range disks {
		size := int64(len(d))
		_, err := metadata.Create(d, metadata.V08, metadata.Internal(), size, metadata.CreateOptions{})
		require.NoError(t, err)
		img, err := LoadDisk(d, size, metadata.Internal(), size, DiskLimits{LogicalBlock: 512})
		require.NoError(t, err)
		c.Attach(&Command{}, i, img)
		run()
	}
	require.Len(t, commands, len(disks))
	commands = nil
	cmd := &Command{}
	c.Shutdown(cmd)
	run()
	require.Equal(t, []*Command{cmd}, commands)
	require.NoError(t, cmd.Err)
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kerneldrbd

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// monitor is QEMU's own command port.
type monitor struct {
	mu   sync.Mutex
	conn net.Conn
	in   *bufio.Reader
	open bool // capabilities are negotiated
}

// answer is a line from QEMU: a greeting, an event, or the answer to a command.
type answer struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
}

// command runs a command of the human monitor, and returns what it says: nothing, if it
// went well.
func (m *monitor) command(ctx context.Context, line string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.in == nil {
		m.in = bufio.NewReader(m.conn)
	}
	stop := context.AfterFunc(ctx, func() { _ = m.conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if stop() {
			return
		}
		_ = m.conn.SetDeadline(time.Time{})
	}()
	if !m.open {
		if _, err := m.exchange(map[string]any{"execute": "qmp_capabilities"}); err != nil {
			return "", err
		}
		m.open = true
	}
	ret, err := m.exchange(map[string]any{"execute": "human-monitor-command", "arguments": map[string]string{"command-line": line}})
	if err != nil {
		return "", err
	}
	var text string
	err = json.Unmarshal(ret, &text)
	return text, err
}

// exchange sends a command and waits for its answer.
func (m *monitor) exchange(command any) (json.RawMessage, error) {
	b, err := json.Marshal(command)
	if err != nil {
		return nil, err
	}
	if _, err := m.conn.Write(append(b, '\n')); err != nil {
		return nil, err
	}
	for {
		line, err := m.in.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		var a answer
		if err := json.Unmarshal(line, &a); err != nil {
			return nil, fmt.Errorf("kerneldrbd: monitor: %q: %w", line, err)
		}
		switch {
		case a.Error != nil:
			return nil, fmt.Errorf("kerneldrbd: monitor: %s", a.Error.Desc)
		case a.Return != nil:
			return a.Return, nil
		}
	}
}

// ResizeDisk gives the i-th disk another size in bytes, also its file. The guest knows
// when it returns. Nothing in the guest may use the disk.
func (g *Guest) ResizeDisk(ctx context.Context, i int, bytes int64) error {
	if err := g.monitor(ctx, fmt.Sprintf("block_resize disk%d %dB", i, bytes)); err != nil {
		return err
	}
	name := fmt.Sprintf("vd%c", 'a'+i)
	_, err := g.Run(ctx, fmt.Sprintf("i=0; while [ $(cat /sys/block/%s/size) -ne %d ]; do i=$((i+1)); [ $i -lt 1000 ] || exit 1; usleep 10000; done", name, bytes/512))
	return err
}

// FreezeDisk lets the i-th disk answer no request any more but the first ones, until
// ThawDisk; flushes pass.
func (g *Guest) FreezeDisk(ctx context.Context, i int) error {
	return g.monitor(ctx, fmt.Sprintf("block_set_io_throttle disk%d 1 0 0 0 0 0", i))
}

// ThawDisk ends FreezeDisk.
func (g *Guest) ThawDisk(ctx context.Context, i int) error {
	return g.monitor(ctx, fmt.Sprintf("block_set_io_throttle disk%d 0 0 0 0 0 0", i))
}

func (g *Guest) monitor(ctx context.Context, line string) error {
	vm, err := g.machine()
	if err != nil {
		return err
	}
	said, err := vm.monitor.command(ctx, line)
	if err == nil && strings.TrimSpace(said) != "" {
		err = fmt.Errorf("kerneldrbd: monitor: %s: %s", line, strings.TrimSpace(said))
	}
	return err
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/stretchr/testify/require"
)

// playPatience is for one scenario, which a busy machine plays slowly.
const playPatience = 5 * time.Minute

// kernelScripts are the scenarios of testdata/scenarios that say what the kernel can do in them.
func kernelScripts(t testing.TB) (list []*script) {
	paths, err := filepath.Glob("testdata/scenarios/*.txt")
	require.NoError(t, err)
	for _, path := range paths {
		sc, err := readScript(path, strings.TrimSuffix(filepath.Base(path), ".txt"))
		require.NoError(t, err)
		if len(sc.kernel) == 0 && sc.why == "" {
			continue
		}
		if len(sc.kernel) < 2 {
			require.NotEmpty(t, sc.why, "%s does not say why the kernel cannot", sc.name)
		}
		list = append(list, sc)
	}
	return list
}

// kernelPlays are those of them that a kernel plays, as rows of the matrix.
func kernelPlays(t testing.TB) (list []kernelScenario) {
	for _, sc := range kernelScripts(t) {
		if len(sc.kernel) == 0 {
			continue
		}
		only := bothAct
		if len(sc.kernel) == 1 {
			only = map[string]kernelDirection{"P": kernelActs, "S": nodeActs}[sc.kernel[0]]
		}
		list = append(list, kernelScenario{name: sc.name, about: sc.title, slow: !strings.HasPrefix(sc.name, "s05"), only: only,
			run: func(t *testing.T, lab *kernelLab) { kernelPlay(t, lab, sc) }})
	}
	return list
}

// kernelPlay plays a scenario with the kernel as either node.
func kernelPlay(t *testing.T, lab *kernelLab, sc *script) {
	for _, role := range sc.kernel {
		dir := map[string]kernelDirection{"P": kernelActs, "S": nodeActs}[role]
		lab.part(t, dir, "the kernel is "+role, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), playPatience)
			defer cancel()
			s, k, log := kernelStage(ctx, t, lab, role)
			err := s.run(sc.lines)
			if err == nil {
				if _, err = lab.guest.Mark(ctx); err == nil { // all it has said is here
					err = s.guard()
				}
			}
			history := s.history()
			if closing := s.close(); err == nil {
				err = closing
			}
			cancel()
			k.watchers.Wait()
			ending := k.end(labContext(t))
			if err != nil {
				t.Fatalf("%s: %v\n%snode's log:\n%s", sc.title, err, history, lastLines(log.String()))
			}
			require.NoError(t, ending)
		})
	}
}

// kernelStage is a stage with a node and a kernel, and a wire between them.
func kernelStage(ctx context.Context, t *testing.T, lab *kernelLab, role string) (*stage, *kernelPlayer, *lockedBuffer) {
	node := other(role)
	taken := map[int]bool{}
	port := func() int { // a port that was free a moment ago may be so twice
		for {
			if p := freePort(t); !taken[p] {
				taken[p] = true
				return p
			}
		}
	}
	address := func() string { return fmt.Sprintf("127.0.0.1:%d", port()) }
	nodeDials, nodeListens, kernelPort := address(), address(), port()
	w, err := newWire(node, role, nodeDials, fmt.Sprintf("127.0.0.1:%d", lab.guest.HostPort(7788)),
		fmt.Sprintf("127.0.0.1:%d", kernelPort), nodeListens)
	require.NoError(t, err)
	log := &lockedBuffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	tr, err := transport.NewTCP(transport.TCPConfig{
		Local: nodeListens, Remote: nodeDials, Logger: logger,
		ConnectInterval: 3 * time.Second, PingTimeout: 30 * time.Second, SocketCheckTimeout: 300 * time.Millisecond,
	})
	require.NoError(t, err)
	s := emptyStage(ctx, w)
	s.real = true
	n := s.add(node, tr)
	n.cfg.Logger = logger
	n.cfg.Peers[0].PingTimeout = 30 * time.Second
	k, err := newKernelPlayer(ctx, lab, role, kernelPort)
	require.NoError(t, err)
	s.nodes[role] = &actor{name: role, other: k}
	return s, k, log
}

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var _ standIn = (*kernelPlayer)(nil)

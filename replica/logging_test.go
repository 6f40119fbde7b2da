// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/replica/internal/core"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestLogInOrder(t *testing.T) {
	defer goleak.VerifyNone(t)
	var out bytes.Buffer
	l := newLogWriter(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})), "r0")
	l.add(core.LogInfo, 0, "one")
	l.add(core.LogDebug, 0, "hidden")
	l.warn("two", -1)
	l.close(time.Minute)
	l.add(core.LogInfo, 0, "too late")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 2)
	require.Contains(t, lines[0], `level=INFO msg=one resource=r0 volume=0`)
	require.Contains(t, lines[1], `level=WARN msg=two resource=r0`)
	require.NotContains(t, lines[1], "volume")
}

// slowHandler blocks until it is let go.
type slowHandler struct {
	slog.Handler
	entered, gate chan struct{}
}

func (h *slowHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *slowHandler) Handle(ctx context.Context, r slog.Record) error {
	h.entered <- struct{}{}
	<-h.gate
	return h.Handler.Handle(ctx, r)
}

// A handler that is slow holds up nobody: lines beyond the queue are counted.
func TestLogSlowHandler(t *testing.T) {
	defer goleak.VerifyNone(t)
	var out bytes.Buffer
	h := &slowHandler{Handler: slog.NewTextHandler(&out, nil), entered: make(chan struct{}, 2*logQueueLen), gate: make(chan struct{})}
	l := newLogWriter(slog.New(h), "r0")
	l.warn("first", -1)
	<-h.entered
	for i := range logQueueLen + 5 {
		l.warn(fmt.Sprint("line ", i), -1)
	}
	close(h.gate)
	l.close(time.Minute)
	require.Contains(t, out.String(), `"5 log lines were lost because the handler is slow"`)
	require.Contains(t, out.String(), fmt.Sprintf(`"line %d"`, logQueueLen-1))
	require.NotContains(t, out.String(), fmt.Sprintf(`"line %d"`, logQueueLen))
}

func TestLogNil(t *testing.T) {
	l := newLogWriter(nil, "r0")
	l.warn("nobody hears this", -1)
	l.close(0)
}

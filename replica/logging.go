// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// logQueueLen is how many lines wait for a slow handler.
const logQueueLen = 1024

// logWriter writes log lines in order, on a goroutine of its own: the handler is
// the user's, and may take its time while the resource's lock is held.
type logWriter struct {
	logger *slog.Logger // nil: nothing is logged
	mu     sync.Mutex
	lines  []logLine
	lost   int // dropped since the last line
	closed bool
	wake   chan struct{}
	done   chan struct{}
}

type logLine struct {
	at     time.Time
	level  slog.Level
	volume int // ID, or -1
	text   string
}

func newLogWriter(logger *slog.Logger, resource string) *logWriter {
	l := &logWriter{wake: make(chan struct{}, 1), done: make(chan struct{})}
	if logger == nil {
		close(l.done)
		return l
	}
	l.logger = logger.With("resource", resource)
	go l.run()
	return l
}

// add queues a line; it never blocks.
func (l *logWriter) add(level core.LogLevel, volume int, text string) {
	if l.logger == nil {
		return
	}
	l.mu.Lock()
	switch {
	case l.closed:
	case len(l.lines) >= logQueueLen:
		l.lost++
	default:
		l.lines = append(l.lines, logLine{time.Now(), slog.Level(level), volume, text})
	}
	l.mu.Unlock()
	l.signal()
}

func (l *logWriter) warn(text string, volume int)  { l.add(core.LogWarn, volume, text) }
func (l *logWriter) error(text string, volume int) { l.add(core.LogError, volume, text) }

func (l *logWriter) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *logWriter) run() {
	defer close(l.done)
	for range l.wake {
		l.mu.Lock()
		lines, lost, closed := l.lines, l.lost, l.closed
		l.lines, l.lost = nil, 0
		l.mu.Unlock()
		for _, line := range lines {
			l.write(line)
		}
		if lost > 0 {
			l.write(logLine{time.Now(), slog.LevelWarn, -1, fmt.Sprintf("%d log lines were lost because the handler is slow", lost)})
		}
		if closed {
			return
		}
	}
}

// write hands a line to the handler with the time at which it was made.
func (l *logWriter) write(line logLine) {
	if !l.logger.Enabled(context.Background(), line.level) {
		return
	}
	rec := slog.NewRecord(line.at, line.level, line.text, 0)
	if line.volume >= 0 {
		rec.AddAttrs(slog.Int("volume", line.volume))
	}
	_ = l.logger.Handler().Handle(context.Background(), rec)
}

// close writes what is queued and ends the goroutine, which a handler that hangs
// can prevent: then it is left behind after limit.
func (l *logWriter) close(limit time.Duration) {
	if l.logger == nil {
		return
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.signal()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C:
	}
}

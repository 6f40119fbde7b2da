// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// browser is a Chromium that is controlled over pipes with its DevTools protocol.
type browser struct {
	t       *testing.T
	in      io.WriteCloser
	session string

	mu      sync.Mutex
	next    int
	waiting map[int]chan json.RawMessage
	errors  []string
}

// openPage starts a browser without a window and opens a page in it.
func openPage(t *testing.T, url string, width, height int, dark bool) *browser {
	t.Helper()
	dir, err := os.MkdirTemp("", "bmweb")
	require.NoError(t, err)
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--remote-debugging-pipe", "--user-data-dir="+dir, fmt.Sprintf("--window-size=%d,%d", width, height))
	toR, toW, err := os.Pipe()
	require.NoError(t, err)
	fromR, fromW, err := os.Pipe()
	require.NoError(t, err)
	cmd.ExtraFiles = []*os.File{toR, fromW} // 3 and 4
	require.NoError(t, cmd.Start())
	_, _ = toR.Close(), fromW.Close()
	b := &browser{t: t, in: toW, waiting: map[int]chan json.RawMessage{}}
	done := make(chan struct{})
	go func() { defer close(done); b.read(fromR) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_, _ = toW.Close(), fromR.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var session struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session)
	b.session = session.SessionID
	for _, domain := range []string{"Runtime", "Log", "Page", "Network"} {
		b.call(domain+".enable", nil, nil)
	}
	scheme := map[bool]string{false: "light", true: "dark"}[dark]
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	return b
}

// read handles what the browser says.
func (b *browser) read(r io.Reader) {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m struct {
			ID     int
			Method string
			Params json.RawMessage
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if json.Unmarshal(line[:len(line)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		if c := b.waiting[m.ID]; c != nil && m.ID > 0 {
			delete(b.waiting, m.ID)
			if m.Error != nil {
				b.errors = append(b.errors, m.Error.Message)
			}
			c <- m.Result
		}
		switch text := string(m.Params); {
		case m.Method == "Runtime.exceptionThrown",
			m.Method == "Log.entryAdded" && strings.Contains(text, `"level":"error"`),
			m.Method == "Runtime.consoleAPICalled" && strings.Contains(text, `"type":"error"`):
			b.errors = append(b.errors, text)
		}
		b.mu.Unlock()
	}
}

// call calls a method of the protocol.
func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	b.mu.Lock()
	b.next++
	id, answer := b.next, make(chan json.RawMessage, 1)
	b.waiting[id] = answer
	b.mu.Unlock()
	m := map[string]any{"id": id, "method": method}
	if params != nil {
		m["params"] = params
	}
	if b.session != "" {
		m["sessionId"] = b.session
	}
	text, err := json.Marshal(m)
	require.NoError(b.t, err)
	_, err = b.in.Write(append(text, 0))
	require.NoError(b.t, err)
	select {
	case got := <-answer:
		if result != nil {
			require.NoError(b.t, json.Unmarshal(got, result))
		}
	case <-time.After(patience):
		b.t.Fatalf("the browser does not answer to %s", method)
	}
}

// eval returns the value of an expression in the page as text.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	var r struct{ Result struct{ Value any } }
	b.call("Runtime.evaluate", map[string]any{"expression": "String(" + expression + ")"}, &r)
	return fmt.Sprint(r.Result.Value)
}

// until evaluates an expression until its value is as wanted.
func (b *browser) until(expression string, wanted func(string) bool) string {
	b.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		got := b.eval(expression)
		if wanted(got) {
			return got
		}
		require.True(b.t, time.Now().Before(deadline), "%s is %q", expression, got)
	}
}

// screenshot writes a picture of the page.
func (b *browser) screenshot(file string) {
	b.t.Helper()
	var r struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &r)
	png, err := base64.StdEncoding.DecodeString(r.Data)
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(file, png, 0o644))
}

// noErrors holds the page to a console without errors.
func (b *browser) noErrors() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.errors, "errors in the browser's console")
}

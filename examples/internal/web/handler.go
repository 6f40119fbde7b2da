// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/go-blockmirror/blockmirror/examples/internal/metrics"
	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

//go:embed page.html
var page []byte

// Handler returns what answers the requests. ready says why the node is not ready, or
// nil. Where local is set, only requests that name this machine as the host are
// answered, so that a page from elsewhere cannot read ours through a name of its own.
func Handler(n *node.Node, s *Sampler, ready func() error, local bool) http.Handler {
	h := &handler{n: n, s: s, ready: ready, csp: policy(page)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.page)
	mux.HandleFunc("GET /events", h.events)
	mux.HandleFunc("GET /api/state", h.state)
	mux.HandleFunc("GET /proc/drbd", h.proc)
	mux.Handle("GET /metrics", metrics.Handler(n))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", h.readyz)
	var out http.Handler = bounded(mux)
	if local {
		out = onlyLocal(out)
	}
	return out
}

// writeTimeout is how long a client may take to receive an answer, or a part of a stream.
const writeTimeout = 15 * time.Second

// bounded lets nobody occupy the server: no request has a body, and answers are received
// in time.
func bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			http.Error(w, "a request here has no body", http.StatusRequestEntityTooLarge)
			return
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)) // a recorder in a test has none
		next.ServeHTTP(w, req)
	})
}

type handler struct {
	n     *node.Node
	s     *Sampler
	ready func() error
	csp   string
}

// policy allows the page its own script and style and nothing else.
func policy(page []byte) string {
	hash := func(tag string) string {
		_, rest, _ := bytes.Cut(page, []byte("<"+tag+">"))
		body, _, _ := bytes.Cut(rest, []byte("</"+tag+">"))
		sum := sha256.Sum256(body)
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
		"script-src " + hash("script") + "; style-src " + hash("style")
}

func onlyLocal(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		host, _, err := net.SplitHostPort(req.Host)
		if err != nil {
			host = req.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "ask for this page as localhost", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, req)
	})
}

func (h *handler) page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", h.csp)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(page)
}

func (h *handler) state(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(Snapshot(h.n))
}

func (h *handler) proc(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, h.n.ProcDRBD())
}

func (h *handler) readyz(w http.ResponseWriter, _ *http.Request) {
	err := h.ready()
	for _, r := range h.n.Resources() {
		if r.Trouble() == node.Failed && err == nil {
			err = fmt.Errorf("resource %s has stopped itself", r.Name())
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// least is the time between two states, so that a storm of changes does not become one
// of messages.
const least = 100 * time.Millisecond

// events is the stream of server-sent events.
func (h *handler) events(w http.ResponseWriter, req *http.Request) {
	watch := h.n.Watch()
	defer watch.Close()
	history, samples := h.s.subscribe()
	defer h.s.unsubscribe(samples)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	rc := http.NewResponseController(w)
	send := func(kind string, v any) bool {
		data, err := json.Marshal(v)
		if err == nil {
			_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
			_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data)
		}
		return err == nil && rc.Flush() == nil
	}
	if !send("history", history) || !send("state", Snapshot(h.n)) {
		return
	}
	pause := time.NewTimer(least)
	defer pause.Stop()
	changed, paused := watch.C(), true
	for {
		wake := changed
		if paused {
			wake = nil
		}
		select {
		case <-req.Context().Done():
			return
		case sample := <-samples:
			if !send("sample", sample) {
				return
			}
			if !resyncing(h.n) {
				continue
			}
		case <-pause.C:
			paused = false
			continue
		case _, open := <-wake:
			if !open {
				return
			}
			pause.Reset(least)
			paused = true
		}
		if !send("state", Snapshot(h.n)) {
			return
		}
	}
}

// resyncing reports whether a bar has to move.
func resyncing(n *node.Node) bool {
	for _, r := range n.Resources() {
		st := r.Snapshot()
		for i := range st.Volumes {
			if st.Volumes[i].Resync != nil {
				return true
			}
		}
	}
	return false
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

// maxBody bounds a request.
const maxBody = 64 << 10

// Answer is the result of a command.
type Answer struct {
	Exit   int    `json:"exit"`
	Code   int    `json:"code,omitempty"`
	Error  string `json:"error,omitempty"`
	Output string `json:"output,omitempty"`
}

// Listen opens a unix socket, which only this user can connect to. A socket that
// a daemon left behind when it was killed is taken over; one that is answered is not.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("socket %s: another daemon answers there", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
	}
	restore := onlyOwner() // from its first moment on
	l, err := net.Listen("unix", path)
	restore()
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), l.Close())
	}
	return l, nil
}

// Handler serves the API.
func Handler(n *node.Node) http.Handler {
	mux := http.NewServeMux()
	s := &server{n}
	mux.HandleFunc("POST /v1/commands/{verb}", s.command)
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("GET /v1/events2", s.events2)
	return mux
}

type server struct{ n *node.Node }

func (s *server) command(w http.ResponseWriter, req *http.Request) {
	c := &Command{Verb: req.PathValue("verb")}
	verb, known := Verbs()[c.Verb]
	if !known {
		http.Error(w, "no such command", http.StatusNotFound)
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(headerTimeout)) // a recorder in a test has none
	dec := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_ = rc.SetReadDeadline(time.Time{}) // the command may take as long as it likes
	for name := range c.Options {
		if _, ok := verb.Options[name]; !ok {
			http.Error(w, "no such option: "+name, http.StatusBadRequest)
			return
		}
	}
	if len(c.Args) < verb.MinArgs || len(c.Args) > verb.MaxArgs {
		http.Error(w, "arguments: "+verb.Usage, http.StatusBadRequest)
		return
	}
	output, err := Run(req.Context(), s.n, c)
	reply(w, answerOf(output, err))
}

func answerOf(output string, err error) Answer {
	a := Answer{Output: output}
	var failed *node.Error
	switch {
	case errors.As(err, &failed):
		a.Exit, a.Code, a.Error = failed.Exit, int(failed.Code), failed.Error()
	case err != nil:
		a.Exit, a.Error = node.ExitUsage, err.Error()
	}
	return a
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (s *server) status(w http.ResponseWriter, req *http.Request) {
	q := req.URL.Query()
	c := &Command{Verb: "status", Args: []string{q.Get("resource")}, Options: map[string]string{
		"verbose": q.Get("verbose"), "statistics": q.Get("statistics"),
	}}
	switch f := q.Get("format"); f {
	case "json", "":
		c.Options["json"] = "yes"
	case "proc":
		c.Options["proc"] = "yes"
	case "text":
	default:
		http.Error(w, "format: want json, text or proc", http.StatusBadRequest)
		return
	}
	out, err := Run(req.Context(), s.n, c)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if c.yes("json") {
		w.Header().Set("Content-Type", "application/json")
	} else {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	_, _ = io.WriteString(w, out)
}

func (s *server) events2(w http.ResponseWriter, req *http.Request) {
	q := req.URL.Query()
	opt := node.Events2Options{
		Resource: q.Get("resource"), Now: q.Get("now") == "yes",
		Statistics: q.Get("statistics") == "yes", Timestamps: q.Get("timestamps") == "yes",
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_ = s.n.Events2(req.Context(), flushing{w, http.NewResponseController(w)}, opt)
}

// flushing sends every line at once.
type flushing struct {
	http.ResponseWriter
	rc *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}

// Serve serves the API on a listener until ctx ends.
func Serve(ctx context.Context, l net.Listener, n *node.Node) error {
	return serve(ctx, &limited{Listener: l, slots: make(chan struct{}, maxCommands)}, Handler(n))
}

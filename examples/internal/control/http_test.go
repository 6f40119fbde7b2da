// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

// serveNode serves a node's API on a socket, which it returns.
func serveNode(t *testing.T, how func(context.Context, net.Listener, *node.Node) error) string {
	dir, err := os.MkdirTemp("", "bm")
	require.NoError(t, err)
	path := filepath.Join(dir, "s")
	l, err := Listen(path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- how(ctx, l, node.New(node.Config{Name: "alpha"})) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, os.RemoveAll(dir))
	})
	return path
}

// TestSocketIsTheOwners: nobody else can open the socket, and a second daemon cannot take
// it from one that answers.
func TestSocketIsTheOwners(t *testing.T) {
	path := serveNode(t, Serve)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	_, err = Listen(path)
	require.ErrorContains(t, err, "another daemon answers there")
}

// TestConnectionsAreLimited: who comes when all places are taken is sent away, and there is
// room again when somebody leaves.
func TestConnectionsAreLimited(t *testing.T) {
	path := serveNode(t, func(ctx context.Context, l net.Listener, n *node.Node) error {
		return ServeHTTP(ctx, l, nil, Handler(n))
	})
	dial := func() net.Conn {
		c, err := net.Dial("unix", path)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	const request = "GET /v1/status HTTP/1.1\r\nHost: daemon\r\n\r\n"
	served := func(c net.Conn) bool {
		_, _ = io.WriteString(c, request) // a closed one says so when it is read
		n, _ := c.Read(make([]byte, 12))
		return n > 0
	}
	var idle []net.Conn
	for range maxConns {
		c := dial()
		require.True(t, served(c))
		idle = append(idle, c)
	}
	require.False(t, served(dial()))
	require.NoError(t, idle[0].Close())
	for !served(dial()) { // the server learns that it has left
	}
}

// TestOversizedRequests: a request that is too large is refused, and costs no memory.
func TestOversizedRequests(t *testing.T) {
	path := serveNode(t, Serve)
	client := NewClient(path)
	body := io.MultiReader(strings.NewReader(`{"args":["`), bytes.NewReader(bytes.Repeat([]byte("x"), maxBody)), strings.NewReader(`"]}`))
	resp, err := client.http.Post("http://daemon/v1/commands/down", "application/json", body)
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, resp.StatusCode)
	require.NoError(t, resp.Body.Close())
	req, err := http.NewRequest(http.MethodGet, "http://daemon/v1/status", nil)
	require.NoError(t, err)
	req.Header.Set("X-Large", strings.Repeat("x", 4*maxHeader))
	resp, err = client.http.Do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, resp.StatusCode)
	require.NoError(t, resp.Body.Close())
}

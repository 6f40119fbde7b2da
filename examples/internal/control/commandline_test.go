// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

func TestCommandLine(t *testing.T) {
	for _, row := range []struct {
		line    string
		args    []string
		options map[string]string
	}{
		{"primary 0 --force", []string{"0"}, map[string]string{"force": "yes"}},
		{"primary -f 0", []string{"0"}, map[string]string{"force": "yes"}},
		{"attach 0 /dev/a internal internal --disk-flushes=no --al-extents 257", []string{"0", "/dev/a", "internal", "internal"},
			map[string]string{"disk-flushes": "no", "al-extents": "257"}},
		{"connect r0 ipv4:1.2.3.4:1 ipv4:1.2.3.5:1 --no-tcp-cork --allow-two-primaries no", []string{"r0", "ipv4:1.2.3.4:1", "ipv4:1.2.3.5:1"},
			map[string]string{"tcp-cork": "no", "allow-two-primaries": "no"}},
		{"verify 0 -S 8 --start=0", []string{"0"}, map[string]string{"stop": "8", "start": "0"}},
		{"status", []string{}, map[string]string{}},
	} {
		c, err := ParseCommand(strings.Fields(row.line))
		require.NoError(t, err, row.line)
		require.Equal(t, row.args, c.Args, row.line)
		require.Equal(t, row.options, c.Options, row.line)
	}
	for _, bad := range []string{"", "x", "primary", "primary 0 1", "primary 0 --al-extents 3", "attach 0 a b", "wait-sync 0 --wfc-timeout", "role 0 --no-x"} {
		c, err := ParseCommand(strings.Fields(bad))
		if bad == "attach 0 a b" { // in number between 1 and 4: refused when it is carried out
			require.NoError(t, err)
			_, err = Run(t.Context(), node.New(node.Config{}), c)
		}
		require.Error(t, err, bad)
	}
}

// FuzzRequest: whatever is sent to the socket is answered, and never with a panic.
func FuzzRequest(f *testing.F) {
	f.Add("POST", "/v1/commands/primary", `{"args":["0"],"options":{"force":"yes"}}`)
	f.Add("POST", "/v1/commands/new-resource", `{"args":["r0"]}`)
	f.Add("POST", "/v1/commands/verify", `{"args":["0"],"options":{"start":"99999999999T"}}`)
	f.Add("GET", "/v1/status?format=text", "")
	f.Add("GET", "/v1/events2?now=yes", "")
	f.Fuzz(func(t *testing.T, method, path, body string) {
		if len(path) == 0 || path[0] != '/' || strings.HasPrefix(path, "/v1/events2") && !strings.Contains(path, "now=yes") {
			return // it has no end
		}
		n := node.New(node.Config{Name: "alpha"})
		if n.NewResource("r0", nil) != nil || n.NewMinor("r0", "0", "0") != nil {
			t.Fatal("no resource")
		}
		req, err := http.NewRequestWithContext(t.Context(), method, "http://daemon"+path, strings.NewReader(body))
		if err != nil || strings.Contains(path, "attach") || strings.Contains(path, "connect") {
			return // files and ports of this machine
		}
		w := httptest.NewRecorder()
		Handler(n).ServeHTTP(w, req)
		if w.Code == 0 {
			t.Fatal("no answer")
		}
		if err := n.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestHelp: who does not know the commands finds them, and who has no daemon is told.
func TestHelp(t *testing.T) {
	run := func(line string) (int, string, string) {
		var out, errOut strings.Builder
		code := Main(t.Context(), t.TempDir()+"/none", strings.Fields(line), &out, &errOut)
		return code, out.String(), errOut.String()
	}
	for _, line := range []string{"help", "--help", "-h"} {
		code, out, _ := run(line)
		require.Zero(t, code)
		for name := range Verbs() {
			require.Contains(t, out, "  "+name)
		}
	}
	code, out, _ := run("help disk-options")
	require.Zero(t, code)
	require.Contains(t, out, "  --al-extents VALUE\n  --al-updates[=yes|no]\n")
	code, _, text := run("help frob")
	require.Equal(t, 20, code)
	require.Contains(t, text, "unknown command")
	code, _, text = run("frob")
	require.Equal(t, 20, code)
	require.Contains(t, text, "drbdsetup help")
	code, _, text = run("role 0")
	require.Equal(t, 20, code)
	require.Contains(t, text, "0: dial unix ")
	require.Contains(t, text, "Is the daemon (storageserver) running")
}

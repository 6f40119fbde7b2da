// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/examples/internal/web"
)

// get reads one page of a daemon.
func (d *instance) get(path string) (int, string) {
	d.l.t.Helper()
	resp, err := http.Get("http://" + d.at.Web + path)
	require.NoError(d.l.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(d.l.t, err)
	http.DefaultClient.CloseIdleConnections()
	return resp.StatusCode, string(body)
}

func TestWeb(t *testing.T) {
	l := newLab(t)
	alpha, _ := l.pair(4<<20, nil)

	for _, path := range []string{"/healthz", "/readyz"} {
		code, body := alpha.get(path)
		require.Equal(t, 200, code)
		require.Equal(t, "ok\n", body)
	}
	code, body := alpha.get("/")
	require.Equal(t, 200, code)
	require.False(t, regexp.MustCompile(`(src|href)="(http|//)`).MatchString(body), "the page loads nothing from elsewhere")
	_, body = alpha.get("/proc/drbd")
	require.Contains(t, body, "cs:Connected ro:Primary/Secondary")
	code, _ = alpha.get("/nothing")
	require.Equal(t, 404, code)

	var st web.State
	_, body = alpha.get("/api/state")
	require.NoError(t, json.Unmarshal([]byte(body), &st))
	require.Equal(t, "alpha", st.Node)
	require.Equal(t, "UpToDate", st.Resources[0].Volumes[0].PeerDisk)

	t.Run("metrics", func(t *testing.T) {
		_, body := alpha.get("/metrics")
		parser := expfmt.NewTextParser(model.UTF8Validation)
		got, err := parser.TextToMetricFamilies(strings.NewReader(body))
		require.NoError(t, err)
		value := func(name string, want map[string]string) float64 {
			for _, m := range got[name].GetMetric() {
				labels := map[string]string{}
				for _, p := range m.GetLabel() {
					labels[p.GetName()] = p.GetValue()
				}
				fits := true
				for k, v := range want {
					fits = fits && labels[k] == v
				}
				if fits {
					return m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
			t.Fatalf("no metric %s%v", name, want)
			return 0
		}
		require.Equal(t, 1.0, value("drbd_resource_role", map[string]string{"name": "r0", "drbd_resource_role": "Primary"}))
		require.Equal(t, 0.0, value("drbd_resource_role", map[string]string{"name": "r0", "drbd_resource_role": "Secondary"}))
		require.Equal(t, 1.0, value("drbd_device_state", map[string]string{"name": "r0", "volume": "0", "drbd_device_state": "UpToDate"}))
		require.Equal(t, 1.0, value("drbd_connection_state", map[string]string{"name": "r0", "drbd_connection_state": "Connected"}))
		require.Equal(t, 0.0, value("drbd_peerdevice_outofsync_bytes", map[string]string{"name": "r0", "volume": "0"}))
		require.Equal(t, 0.0, value("blockmirror_split_brain", map[string]string{"name": "r0"}))
		require.Len(t, got["blockmirror_request_duration_seconds"].GetMetric(), 5, "a histogram for each kind of request")
		problems, err := promlint.New(strings.NewReader(body)).Lint()
		require.NoError(t, err)
		require.Empty(t, problems)
	})

	t.Run("other hosts", func(t *testing.T) {
		req, err := http.NewRequest(http.MethodGet, "http://"+alpha.at.Web+"/api/state", nil)
		require.NoError(t, err)
		req.Host = "attacker.example"
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusForbidden, resp.StatusCode)
	})

	t.Run("bodies", func(t *testing.T) {
		req, err := http.NewRequest(http.MethodGet, "http://"+alpha.at.Web+"/api/state", io.LimitReader(neverEnds{}, 1<<30))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		if err == nil { // else it was cut off while it sent
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
		}
		code, _ := alpha.get("/healthz")
		require.Equal(t, http.StatusOK, code)
	})

	t.Run("events", func(t *testing.T) {
		resp, err := http.Get("http://" + alpha.at.Web + "/events")
		require.NoError(t, err)
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		until := func(want string) {
			for lines.Scan() {
				if strings.Contains(lines.Text(), want) {
					return
				}
			}
			t.Fatalf("the stream ended before %q: %v", want, lines.Err())
		}
		until("event: history")
		until(`"role":"Primary"`)
		alpha.ok("secondary 0")
		until(`"role":"Secondary"`)
		until("event: sample")
	})
	http.DefaultClient.CloseIdleConnections()
}

// neverEnds is a body of zeroes.
type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) { return len(p), nil }

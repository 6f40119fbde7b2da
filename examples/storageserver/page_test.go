// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPage looks at the page in a browser: during a resync the bar moves and states
// change; after a split brain it says what to type. BLOCKMIRROR_SCREENSHOTS names a
// folder for pictures.
func TestPage(t *testing.T) {
	t.Parallel()
	need(t, "chromium", "nbdcopy")
	pictures := os.Getenv("BLOCKMIRROR_SCREENSHOTS")
	if pictures == "" {
		pictures = t.TempDir()
	}
	l := newLab(t, 64<<20)
	port := newLab(t, 0).ports[0]
	alpha, beta := l.server("alpha", 0, "-web", port), l.server("beta", 1)
	c := newCable(l, alpha, beta)
	alpha.start()
	beta.start()
	alpha.ok("wait-connect 0", "disconnect r0")
	beta.ok("disconnect r0", "disk-options 0 --resync-rate=10M", "connect r0")
	alpha.ok("disk-options 0 --resync-rate=10M", "connect r0", "wait-connect 0")
	b := openPage(t, "http://"+port+"/", 1200, 900, false)
	is := func(want string) func(string) bool { return func(s string) bool { return s == want } }
	b.until("document.title", is("alpha – blockmirror"))
	b.until("document.getElementById('link').textContent", is("live"))
	require.Equal(t, "Secondary", b.eval("document.querySelector('.pill').textContent"))

	alpha.ok("primary 0 --force")
	b.until("document.querySelector('.pill').textContent", is("Primary"))
	const percent = "document.querySelector('[role=progressbar]')?.getAttribute('aria-valuenow')"
	var seen []float64
	b.until(percent, func(s string) bool {
		if f, err := strconv.ParseFloat(s, 64); err == nil && (len(seen) == 0 || f != seen[len(seen)-1]) {
			seen = append(seen, f)
			if len(seen) == 2 {
				require.Contains(t, b.eval("document.body.textContent"), "SyncSource")
				b.screenshot(filepath.Join(pictures, "resync.png"))
			}
		}
		return s == "undefined" && len(seen) > 0
	})
	require.GreaterOrEqual(t, len(seen), 3, "the bar does not move: %v", seen)
	require.IsIncreasing(t, seen)
	b.until("[...document.querySelectorAll('.vol .pill')].map(e => e.textContent).join()", is("UpToDate,UpToDate"))
	b.until("document.querySelectorAll('#rate path.a').length", is("1"))

	// What clients do is in the plots.
	data := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	require.NoError(t, os.WriteFile(l.path("data"), data, 0o600))
	command(t, "nbdcopy", l.path("data"), alpha.uri())
	b.until("samples.some(s => s.w > 0 && s.mean > 0 && s.p99 >= s.mean)", is("true"))
	b.screenshot(filepath.Join(pictures, "plots.png"))

	// A split brain, told in words.
	c.cut()
	beta.await("primary 0", func(code int, _ string) bool { return code == 0 })
	alpha.await("cstate 0", func(_ int, out string) bool { return out == "WFConnection\n" })
	c.mend()
	b.until("document.querySelector('.advice')?.textContent", func(s string) bool {
		return strings.Contains(s, "Split brain") && strings.Contains(s, "drbdsetup connect r0 --discard-my-data")
	})
	b.screenshot(filepath.Join(pictures, "split-brain.png"))
	small := openPage(t, "http://"+port+"/", 390, 800, true)
	small.until("document.querySelector('.advice')?.textContent.includes('Split brain')", is("true"))
	require.Equal(t, "true", small.eval("document.documentElement.scrollWidth <= 390"), "the page is wider than a phone")
	require.Equal(t, "true", small.eval("document.querySelector('.advice').getBoundingClientRect().top < 300"), "trouble is what one sees first")
	small.screenshot(filepath.Join(pictures, "phone-split-brain.png"))
	// What does not change stays as it is, with what is marked in it.
	small.eval("(window.seen = document.querySelector('.advice code'), getSelection().selectAllChildren(seen))")
	small.until("samples.length > 2 && seen.isConnected && getSelection().toString()", is("drbdsetup secondary 0"))
	small.noErrors()
	beta.ok("secondary 0")
	beta.await("cstate 0", func(_ int, out string) bool { return out == "StandAlone\n" })
	beta.ok("connect r0 --discard-my-data")
	alpha.ok("connect r0")
	b.until("document.querySelector('.advice') === null", is("true"))
	beta.inSync()
	b.noErrors()

	phone := openPage(t, "http://"+port+"/", 390, 800, true)
	phone.until("document.querySelectorAll('.vol').length", is("1"))
	require.Equal(t, "true", phone.eval("document.documentElement.scrollWidth <= 390"), "the page is wider than a phone")
	phone.screenshot(filepath.Join(pictures, "phone.png"))
	phone.noErrors()
}

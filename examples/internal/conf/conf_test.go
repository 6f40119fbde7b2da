// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
)

func load(t *testing.T, text, host string) ([]node.ResourceConfig, []string, error) {
	file := filepath.Join(t.TempDir(), "drbd.conf")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	list, warnings, err := Load(file, host)
	for i := range warnings {
		warnings[i] = strings.TrimPrefix(warnings[i], file+":")
	}
	return list, warnings, err
}

const hosts = ` device minor 1; meta-disk internal;
  on alpha { address 192.0.2.1:1; disk /dev/a; }
  on beta { address 192.0.2.2:1; disk /dev/b; }
`

// TestTranslated: values that are another thing in the file than for the node.
func TestTranslated(t *testing.T) {
	text := "resource r0 {" + hosts + `
  net { after-sb-0pri discard-node-alpha; csums-alg crc32c; }
  disk { on-io-error panic; disk-barrier yes; }
  handlers { split-brain "mail root | true"; pri-lost "/bin/echo 'lost it'"; }
}
resource r1 { device minor 7; disk /dev/c; meta-disk /dev/m[3];
  on alpha { address 192.0.2.1:2; } on beta { address 192.0.2.2:2; }
  disk { resync-after r0; }
}`
	alpha, warnings, err := load(t, text, "alpha")
	require.NoError(t, err)
	require.Equal(t, node.Options{"on-io-error": "call-local-io-error"}, alpha[0].Volumes[0].Options)
	require.Equal(t, node.Options{"after-sb-0pri": "discard-local"}, alpha[0].Net.Options)
	require.Equal(t, map[string]string{"pri-lost": "/bin/echo 'lost it'"}, alpha[0].Handlers)
	require.Equal(t, node.Options{"resync-after": "1"}, alpha[1].Volumes[0].Options)
	require.Equal(t, &node.Backing{Disk: "/dev/c", MetaDisk: "/dev/m", Index: "3"}, alpha[1].Volumes[0].Backing)
	for _, want := range []string{
		"5:43: net csums-alg: no effect:", "6:10: disk on-io-error: legacy:", "6:29: disk disk-barrier: no effect:",
		`7:14: handlers split-brain: not supported: '|' means something to a shell`,
	} {
		require.Contains(t, strings.Join(warnings, "\n"), want)
	}
	require.Len(t, warnings, 4)

	beta, _, err := load(t, text, "beta")
	require.NoError(t, err)
	require.Equal(t, node.Options{"after-sb-0pri": "discard-remote"}, beta[0].Net.Options)
	gamma, warnings, err := load(t, text, "gamma")
	require.NoError(t, err)
	require.Empty(t, gamma)
	require.Len(t, warnings, 2)
}

// TestRefused: what would cost data if it were left out is an error with its place, and
// the other resources are there.
func TestRefused(t *testing.T) {
	list, _, err := load(t, "resource r0 {"+hosts+"\n handlers { fence-peer \"/sbin/fence; true\"; }\n}\nresource r1 {"+strings.NewReplacer("minor 1", "minor 2", ":1", ":2", "/dev/a", "/dev/c", "/dev/b", "/dev/d").Replace(hosts)+"}", "alpha")
	require.ErrorContains(t, err, ":5:13: handler fence-peer: ';' means something to a shell")
	require.Len(t, list, 1)
	list, _, err = load(t, "resource r0 {\n  disk { al-extents many; }\n}", "alpha")
	require.ErrorContains(t, err, ":2:")
	require.Nil(t, list)
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDocTable: the packet table in docs/wire-packets.md is the table of this package.
func TestDocTable(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "docs", "wire-packets.md"))
	require.NoError(t, err)
	want := docTable()
	if !strings.Contains(strings.ReplaceAll(string(doc), "\r\n", "\n"), want) {
		t.Fatalf("docs/wire-packets.md must contain this table:\n\n%s", want)
	}
}

// docTable prints the catalog as Markdown, in order of the command numbers.
func docTable() string {
	var b strings.Builder
	b.WriteString("| number | packet | stream | versions | feature | bytes after the header | Go type |\n")
	b.WriteString("|---|---|---|---|---|---|---|\n")
	for i := 0; i <= 0xffff; i++ {
		c := Command(i)
		r := lookup(c)
		if r == nil {
			continue
		}
		name := r.name
		if r.scope == connection {
			name += " ¹"
		}
		feature := ""
		if r.needs != 0 {
			feature = r.needs.String()
		}
		fmt.Fprintf(&b, "| 0x%02x | %s | %s | %s | %s | %s | %s |\n", i, name, docStream(r), docVersions(r),
			feature, docLength(r), reflect.TypeOf(r.fresh()).Elem().Name())
	}
	return b.String()
}

func docStream(r *row) string {
	switch r.streams {
	case onData:
		return "data"
	case onMeta:
		return "meta"
	}
	return "either"
}

func docVersions(r *row) string {
	switch {
	case r.opening:
		return "before"
	case r.ignored && r.since > 0:
		return fmt.Sprintf("%d on, ignored", r.since)
	case r.ignored:
		return "all, ignored"
	case r.lenient:
		return fmt.Sprintf("sent to %d, read always", r.until)
	case r.since > 0:
		return fmt.Sprintf("%d on", r.since)
	}
	return "all"
}

// docLength describes the lengths in a session of version 101 with all features, and
// marks those that differ in others.
func docLength(r *row) string {
	newest := &Session{Version: MaxVersion, Features: AllFeatures}
	b := r.bounds(newest)
	text := fmt.Sprint(b.body)
	if r.bulk {
		text += " + digest"
	}
	if b.tailMax > 0 {
		text += fmt.Sprintf(" + %d..%d", b.tailMin, b.tailMax)
	}
	if b.orBare {
		text += fmt.Sprintf(", or %d", b.body)
	}
	for v := MinVersion; v <= MaxVersion; v++ {
		for _, f := range []Features{0, AllFeatures} {
			if r.bounds(&Session{Version: v, Features: f}) != b {
				return text + " ²"
			}
		}
	}
	return text
}

// TestCatalogIsComplete: every row can be used.
func TestCatalogIsComplete(t *testing.T) {
	names := map[string]bool{}
	for i := range catalog {
		r := &catalog[i]
		if r.name == "" {
			require.Nil(t, r.fresh, "row %#x has no name", i)
			continue
		}
		require.False(t, names[r.name], r.name)
		names[r.name] = true
		require.True(t, strings.HasPrefix(r.name, "P_"))
		require.NotZero(t, r.streams, r.name)
		require.NotNil(t, r.fresh, r.name)
		for v := MinVersion; v <= MaxVersion; v++ {
			b := r.bounds(&Session{Version: v, Features: AllFeatures, PeerDigestSize: MaxDigestBytes})
			require.Equal(t, b.tailMax > 0, b.step > 0, "%s: a tail needs a step", r.name)
			require.LessOrEqual(t, b.tailMin, b.tailMax, r.name)
			if !r.bulk {
				require.LessOrEqual(t, b.body+b.tailMax, uint32(MaxFrontBytes), r.name)
			}
			if r.streams&onMeta != 0 {
				require.LessOrEqual(t, int(b.body+b.tailMax), MaxPacketBytes(MetaStream), r.name)
			}
		}
	}
}

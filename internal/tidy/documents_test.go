// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	mdLink  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	mdFence = regexp.MustCompile("(?ms)^```.*?^```$")
	mdCode  = regexp.MustCompile("`[^`\n]*`")
	mdHead  = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
	notSlug = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// TestDocumentLinks follows the relative links of all Markdown files.
func TestDocumentLinks(t *testing.T) {
	documents := 0
	for _, f := range tracked(t) {
		if !strings.HasSuffix(f, ".md") {
			continue
		}
		documents++
		text := mdCode.ReplaceAllString(mdFence.ReplaceAllString(string(read(t, f)), ""), "")
		for _, m := range mdLink.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := f
			if file != "" {
				target = path.Join(path.Dir(f), file)
			}
			info, err := os.Stat(filepath.Join(root, target))
			switch {
			case err != nil:
				t.Errorf("%s: the link to %s leads nowhere", f, m[1])
			case anchor != "" && !info.IsDir() && strings.HasSuffix(target, ".md") && !headings(t, target)[anchor]:
				t.Errorf("%s: %s has no heading #%s", f, target, anchor)
			}
		}
	}
	require.NotZero(t, documents)
}

// headings returns the anchors of a Markdown file's headings.
func headings(t *testing.T, file string) map[string]bool {
	t.Helper()
	anchors := map[string]bool{}
	for _, m := range mdHead.FindAllStringSubmatch(string(read(t, file)), -1) {
		slug := notSlug.ReplaceAllString(strings.ToLower(m[1]), "")
		anchors[strings.ReplaceAll(slug, " ", "-")] = true
	}
	return anchors
}

// TestSourceFilesNamedInDocs holds docs to the code: a Go file that a page of docs
// names with its folder exists.
func TestSourceFilesNamedInDocs(t *testing.T) {
	name := regexp.MustCompile("`((?:[a-z0-9_-]+/)+[a-z0-9_*]+\\.go)`")
	for _, f := range tracked(t) {
		if !strings.HasSuffix(f, ".md") {
			continue
		}
		for _, m := range name.FindAllStringSubmatch(string(read(t, f)), -1) {
			matches, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(m[1])))
			require.NoError(t, err)
			if len(matches) == 0 {
				t.Errorf("%s names %s, which does not exist", f, m[1])
			}
		}
	}
}

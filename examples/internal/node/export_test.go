// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import "strings"

// What the tests in package node_test look at.
var (
	ApplyDisk = applyDisk
	ApplyNet  = applyNet
)

// Inert reports whether an option is accepted without effect.
func (t optionTable) Inert(name string) bool { return t[name].inert }

// Values returns the values that an option takes, as docs/options.md writes them.
func (t optionTable) Values(name string) string {
	o := t[name]
	switch o.kind {
	case optBool:
		return "yes, no"
	case optChoice:
		return strings.Join(o.choices[1:], ", ")
	case optText:
		return itoa(int(o.max)) + " characters"
	}
	return itoa(int(o.min)) + ".." + itoa(int(o.max))
}

// Other returns a value that is not the option's default.
func (t optionTable) Other(name string) string {
	o := t[name]
	switch {
	case o.kind == optBool:
		return map[string]string{"yes": "no", "no": "yes"}[o.def]
	case o.kind == optChoice:
		return o.choices[1]
	case o.kind == optText:
		return "sha1"
	}
	for _, n := range []int64{o.min + 1, o.max - 1} {
		if itoa(int(n)) != o.def {
			return itoa(int(n))
		}
	}
	return ""
}

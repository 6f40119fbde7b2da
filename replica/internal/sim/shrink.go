// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"
	"strings"
)

// Shrink looks for a shorter script that fails in the same way: it takes runs of
// actions out, long ones first, then single ones, until none can go (delta debugging).
// Without a failure it returns the script as it is.
func Shrink(s Script) Script {
	_, err := Play(s, false)
	if err == nil {
		return s
	}
	kind := FailureKind(err)
	same := func(actions []Action) bool {
		t := s
		t.Actions = actions
		_, err := Play(t, false)
		return err != nil && FailureKind(err) == kind
	}
	const maxPlays = 600
	plays := 0
	for n := (len(s.Actions) + 1) / 2; n > 0 && plays < maxPlays; {
		removed := false
		for at := 0; at < len(s.Actions) && plays < maxPlays; {
			shorter := slices.Concat(s.Actions[:at], s.Actions[min(at+n, len(s.Actions)):])
			if plays++; same(shorter) {
				s.Actions, removed = shorter, true
			} else {
				at += n
			}
		}
		if n > 1 {
			n /= 2
		} else if !removed {
			break
		}
	}
	return s
}

// FailureKind is a failure without its numbers, so that a script that fails for
// another reason is not taken for a shorter form.
func FailureKind(err error) string {
	text := err.Error()
	if _, rest, ok := strings.Cut(text, ": "); ok { // the seed and the time
		text = rest
	}
	if head, _, ok := strings.Cut(text, ";"); ok {
		text = head
	}
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
}

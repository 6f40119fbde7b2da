// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"errors"
	"fmt"

	"github.com/go-blockmirror/blockmirror/activitylog"
)

// Messages returns what apply-al tells the user, line by line, in the tool's words.
// err is what [ApplyAL] returned with the result.
func (res *ApplyResult) Messages(err error) []string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	replay := &res.Replay
	noLog := errors.Is(err, activitylog.ErrNoLog) || errors.Is(res.Ignored, activitylog.ErrNoLog)
	damaged := errors.Is(err, activitylog.ErrDamaged) || errors.Is(res.Ignored, activitylog.ErrDamaged)
	switch {
	case noLog:
		say("No usable activity log found. Do you need to create-md?")
	case replay.Format == activitylog.FormatSectors && replay.Updates == 0:
		say("No usable activity log found.")
	case replay.Format == activitylog.FormatSectors && replay.Invalid > 0:
		say("%d corrupt or uninitialized AL transactions found", replay.Invalid)
		say("You can safely ignore this if this node was cleanly stopped (no crash).")
	case replay.Invalid > 0:
		say("%d corrupt AL transactions found", replay.Invalid)
	}
	if damaged {
		say("No valid AL update transaction found.")
	}
	if res.Ignored != nil {
		say("Error ignored, no need to apply the AL")
	}
	for _, e := range res.Beyond {
		say("extent %d beyond end of bitmap!", e)
	}
	recorded := replay.Updates > 0 || replay.Format == activitylog.FormatPersistent
	if err != nil || !res.PrimaryInd || !recorded {
		return lines
	}
	if len(replay.Hot) == 0 {
		say("Nothing to do.")
	} else {
		say("Marked additional %s as out-of-sync based on AL.", FormatSize(res.MarkedBytes/1024))
	}
	return lines
}

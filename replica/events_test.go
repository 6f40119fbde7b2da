// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"testing"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/stretchr/testify/require"
)

func collect(r *Resource, ctx context.Context, n int) []Event {
	var out []Event
	for ev := range r.Events(ctx) {
		if out = append(out, ev); len(out) == n {
			break
		}
	}
	return out
}

func TestEventsInOrder(t *testing.T) {
	r := &Resource{}
	a, b := r.Events(t.Context()), r.Events(t.Context())
	for i := range 3 {
		r.hub.publish(Event{Kind: EventSize, Size: int64(i)})
	}
	r.hub.close()
	for _, seq := range []func(func(Event) bool){a, b} {
		var got []int64
		for ev := range seq {
			require.Equal(t, uint64(len(got)+1), ev.Seq)
			got = append(got, ev.Size)
		}
		require.Equal(t, []int64{0, 1, 2}, got)
	}
	require.Empty(t, collect(r, t.Context(), 1), "a closed resource has no events")
}

// A slow reader finds a marker in the place of the oldest events.
func TestEventsLagged(t *testing.T) {
	r := &Resource{}
	seq := r.Events(t.Context())
	const more = 10
	for i := range eventQueueLen + more {
		r.hub.publish(Event{Kind: EventSize, Size: int64(i)})
	}
	r.hub.close()
	var got []Event
	for ev := range seq {
		got = append(got, ev)
	}
	require.Len(t, got, eventQueueLen+1)
	require.Equal(t, EventLagged, got[0].Kind)
	require.Equal(t, uint64(more), got[0].Missed)
	require.Equal(t, uint64(more), got[0].Seq)
	require.Equal(t, "missed 10 events", got[0].String())
	for i, ev := range got[1:] {
		require.Equal(t, uint64(more+1+i), ev.Seq)
	}
}

func TestEventsEndWithContext(t *testing.T) {
	r := &Resource{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seq := r.Events(ctx)
	r.hub.publish(Event{Kind: EventSize})
	n := 0
	for range seq {
		n++
		cancel()
	}
	require.Equal(t, 1, n)
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	require.Empty(t, r.hub.subs)
}

// A subscription that is never read goes away with its context.
func TestEventsNeverRead(t *testing.T) {
	r := &Resource{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.Events(ctx)
	r.hub.mu.Lock()
	s := r.hub.subs[0]
	r.hub.mu.Unlock()
	cancel()
	<-s.wake // its end
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	require.Empty(t, r.hub.subs)
}

func TestEventString(t *testing.T) {
	old := protocol.State{Role: protocol.Secondary, Peer: protocol.RoleUnknown, Conn: protocol.WFReportParams, Disk: protocol.UpToDate, PeerDisk: protocol.DUnknown}
	now := old
	now.Peer, now.Conn, now.PeerDisk, now.Susp, now.UserISP = protocol.Primary, protocol.Connected, protocol.UpToDate, true, true
	require.Equal(t,
		"volume 3: peer( Unknown -> Primary ) conn( WFReportParams -> Connected ) pdsk( DUnknown -> UpToDate ) susp( 0 -> 1 ) user_isp( 0 -> 1 )",
		Event{Kind: EventState, Volume: 3, Old: old, New: now}.String())
	require.Equal(t, "volume 0: resync of 400 KiB began", Event{Kind: EventResyncStart, Blocks: 100}.String())
	require.Equal(t, "volume 0: resync of 400 KiB done, 4 KiB failed", Event{Kind: EventResyncDone, Blocks: 100, Failed: 1}.String())
	require.Equal(t, "volume 0: size is now 4096 bytes", Event{Kind: EventSize, Size: 4096}.String())
	require.Equal(t, "split-brain: by rule 90", Event{Kind: EventSplitBrain, Volume: -1, Text: "by rule 90"}.String())
	require.Equal(t, "EventKind(99)", EventKind(99).String())
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// OrderedVolume is one volume of a node as resync-after sees it (spec: behaviour
// 6.5). Volumes refer to each other by their place in a list.
type OrderedVolume struct {
	After int // the volume that goes first; negative for none, or for one that does not exist
	State protocol.State
}

// MustWait reports whether a resync of list[i] has to wait: a volume that it comes
// after, directly or through others, is in a resync or verify, or is paused itself.
// The chain ends at a volume without a disk.
func MustWait(list []OrderedVolume, i int) bool {
	for range list { // at most as many steps as there are volumes, whatever the list says
		v := &list[i]
		if v.State.Disk == protocol.Diskless || v.After < 0 || v.After >= len(list) {
			return false
		}
		i = v.After
		s := &list[i].State
		if inSyncRange(s.Conn) || s.AftrISP || s.PeerISP || s.UserISP {
			return true
		}
	}
	return false
}

// InLoop reports whether list[i] comes, through others or not, after itself.
func InLoop(list []OrderedVolume, i int) bool {
	at := i
	for range list {
		if at = list[at].After; at < 0 || at >= len(list) {
			return false
		}
		if at == i {
			return true
		}
	}
	return true // it runs into a loop of others
}

// SetAfter tells a volume whether its resync has to wait for another volume of the
// node: the flag aftr_isp. The peer is told, and pauses, too.
func (c *Core) SetAfter(vol int, wait bool) {
	pd := c.vols[vol].pds[0]
	if pd.aftrISP != wait {
		c.change(pd, fact, func(s *protocol.State) { s.AftrISP = wait })
	}
	c.settle()
}

// pauseRefusal says why the administrator's pause or resume changes nothing, or nil.
func (pd *peerDevice) pauseRefusal(on bool) error {
	switch {
	case pd.userISP != on:
		return nil
	case on:
		return refusedPause("the resync is paused already (134)")
	case pd.aftrISP:
		return refusedPause("the resync waits for another volume, not for you (156): see resync-after")
	case pd.peerISP:
		return refusedPause("the peer has paused the resync (157): resume it there")
	}
	return refusedPause("the resync is not paused (135)")
}

func refusedPause(why string) error { return fmt.Errorf("%w: %s", ErrRefused, why) }

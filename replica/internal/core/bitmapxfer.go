// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/bitmap"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// The bitmap exchange in front of a resync (spec: wire 6, 8.3):
//
//	source                                     target
//	WFBitMapS  -- P_STATE, whole bitmap -->    WFBitMapT: or into own
//	or into own <-- whole bitmap ----------    WFSyncUUID
//	SyncSource -- P_SYNC_UUID ------------>    SyncTarget

// sendBitmap sends all of the own bitmap in one go: nothing may come between its
// packets.
func (pd *peerDevice) sendBitmap() {
	if pd.conn == protocol.WFBitMapS {
		pd.markFlying()
	}
	pd.resync.unheard = false
	s := &pd.p.session
	compress := pd.v.c.cfg.Net.UseRLE && s.CanSend(protocol.CmdCompressedBitmap)
	size := bitmap.MaxBody(protocol.HeaderSize(s.Version))
	buf := make([]byte, 0, size)
	for e := bitmap.NewEncoder(pd.bm); !e.Done(); {
		cmd, body, ok := protocol.CmdCompressedBitmap, buf[:0], false
		if compress {
			body, ok = e.Next(buf[:0], size)
		}
		if !ok {
			cmd, body = protocol.CmdBitmap, e.Plain(buf[:0], size)
		}
		send(pd.p, protocol.DataStream, cmd, pd.v.cfg.Number, protocol.Bitmap{Bytes: body})
	}
	if pd.conn == protocol.WFBitMapS {
		pd.expectBitmap()
	}
}

// markFlying marks the writes that the peer has not answered. It may have lost its disk
// before they came, and attached it again: its refusal, on the other stream, would be
// slower than the bitmap, and only this node would have the mark.
func (pd *peerDevice) markFlying() {
	if pd.inFlight == 0 {
		return
	}
	for _, r := range pd.v.c.requests.live() {
		if r.flying && r.pd == pd {
			pd.setOutOfSync(r.sector, r.size)
		}
	}
}

// expectBitmap begins to merge the peer's bitmap into the own one.
func (pd *peerDevice) expectBitmap() { pd.rx = bitmap.NewDecoder(pd.bm) }

func (pd *peerDevice) receiveBitmap(h protocol.Header, body []byte) error {
	if pd.rx == nil {
		return fmt.Errorf("%w: no bitmap is expected", errSequence)
	}
	size := bitmap.MaxBody(protocol.HeaderSize(pd.p.session.Version))
	var err error
	if h.Command == protocol.CmdBitmap {
		err = pd.rx.Plain(body, size)
	} else {
		err = pd.rx.Compressed(body, size)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", protocol.ErrField, err)
	}
	if pd.rx.Done() {
		pd.rx = nil
		pd.bitmapComplete()
	}
	return nil
}

// bitmapComplete: both bitmaps are, or will be, equal.
func (pd *peerDevice) bitmapComplete() {
	c := pd.v.c
	pd.v.logf(LogInfo, "received bitmap: %d blocks are out of sync", pd.bm.Count())
	switch pd.conn {
	case protocol.WFBitMapT:
		pd.sendBitmap()
		c.change(pd, fact, func(s *protocol.State) { s.Conn = protocol.WFSyncUUID })
		pd.applySyncUUID()
	case protocol.WFBitMapS:
		pd.becomeSource()
	}
}

// receiveOutOfSync: the peer wrote without sending the data (spec: wire 4.16).
func (pd *peerDevice) receiveOutOfSync(q protocol.BlockDescription) error {
	if err := pd.v.inside(q.Sector, uint64(q.Size)); err != nil {
		return err
	}
	pd.setOutOfSync(q.Sector, q.Size)
	pd.armLazy()
	return nil
}

// inside refuses ranges beyond the end of the volume.
func (v *volume) inside(sector, bytes uint64) error {
	n, size := bytes/512, max(v.size, v.coming)
	if bytes%512 != 0 || sector > size || n > size-sector {
		return fmt.Errorf("%w: %d bytes at sector %d of %d", protocol.ErrField, bytes, sector, v.size)
	}
	return nil
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// floodPackets is how many packets of a kind a flooding peer sends, and floodBytes the
// memory that all of them may occupy.
const (
	floodPackets = 60000
	floodBytes   = 16 << 20
)

// floodStates are those in which a peer can ask for most. In the others nothing grew either.
var floodStates = map[string]bool{"Secondary": true, "Primary that writes": true, "SyncSource": true, "VerifyT": true, "two Primaries": true}

// TestFloodingPeer: a peer that sends the same packet again and again, and reads none of
// the answers, occupies a bounded amount of memory: the shell stops reading when the core
// says so, or the connection ends.
func TestFloodingPeer(t *testing.T) {
	for where, state := range hostileStates {
		if !floodStates[state.name] || (testing.Short() || raceEnabled) && state.name != "Secondary" {
			continue
		}
		t.Run(state.name, func(t *testing.T) {
			for cmd := protocol.Command(0); cmd < 0x50; cmd++ {
				for st := range protocol.Stream(2) {
					flood(t, where, st, cmd)
				}
			}
		})
	}
}

// flood brings a pair to a state and sends one kind of packet.
func flood(t *testing.T, where int, st protocol.Stream, cmd protocol.Command) {
	c := hostileState(t, where, true, func(o *Options) { o.Buffers = 512 })
	c.net.stall(1, true)
	a, p := c.Nodes[0], c.net.pair
	s := a.core.Session(0)
	body := floodBody(cmd, &s)
	h := protocol.Header{Command: cmd, Length: uint32(len(body))}
	if s.CheckHeader(st, h) != nil {
		return
	}
	front := s.PayloadOffset(h)
	before := heapBytes()
	i := 0
	for ; i < floodPackets && a.core != nil && c.net.pair == p; i++ {
		if i%1000 == 999 {
			c.failure = nil
			c.Run(100 * time.Microsecond)
			if st == protocol.DataStream && a.core.Flooded(0) {
				break
			}
		}
		var payload *core.Buffer
		if front < len(body) {
			payload = &core.Buffer{Data: body[front:]}
		}
		a.event(func() { a.core.Receive(0, p.gen[0], st, h, body[:front], payload) })
	}
	if grown := heapBytes() - before; grown > floodBytes {
		t.Errorf("%d times %v on the %v stream occupy %d MiB", i, cmd, st, grown>>20)
	}
	runtime.KeepAlive(c)
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// floodBody is the body of a packet that makes work.
func floodBody(cmd protocol.Command, s *protocol.Session) []byte {
	block := protocol.BlockRequest{Sector: 8, ID: protocol.IDSyncer, Size: 4096}
	switch cmd {
	case protocol.CmdDataRequest:
		block.ID = 1
		return block.AppendTo(nil, s)
	case protocol.CmdRSDataRequest, protocol.CmdRSThinReq, protocol.CmdOVRequest:
		return block.AppendTo(nil, s)
	case protocol.CmdData:
		return append(protocol.Data{Sector: 8, ID: 1, Seq: 1, Flags: protocol.DPSendWriteAck}.AppendTo(nil, s), make([]byte, 512)...)
	case protocol.CmdTrim, protocol.CmdZeroes:
		return protocol.Data{Sector: 8, ID: 1, Seq: 1, Flags: protocol.DPSendWriteAck | protocol.DPDiscard, Size: 4096}.AppendTo(nil, s)
	case protocol.CmdOutOfSync:
		return protocol.BlockDescription{Sector: 8, Size: 4096}.AppendTo(nil, s)
	case protocol.CmdPing, protocol.CmdPingAck, protocol.CmdUnplugRemote, protocol.CmdBitmap:
		return nil
	case protocol.CmdState:
		return protocol.State{Role: protocol.Secondary, Conn: protocol.Connected, Disk: protocol.UpToDate, PeerDisk: protocol.UpToDate}.AppendTo(nil, s)
	case protocol.CmdStateChgReq, protocol.CmdConnStChgReq:
		return protocol.StateRequest{}.WithDisk(protocol.Outdated).AppendTo(nil, s)
	case protocol.CmdSizes:
		return protocol.Sizes{DiskSize: 512, UserSize: 0, CurrentSize: 512}.AppendTo(nil, s)
	case protocol.CmdRSWriteAck, protocol.CmdWriteAck, protocol.CmdNegAck, protocol.CmdRetryWrite, protocol.CmdSuperseded, protocol.CmdRSIsInSync:
		return protocol.BlockAck{ID: protocol.IDSyncer, Sector: 8, Size: 4096}.AppendTo(nil, s)
	case protocol.CmdUUIDs:
		return make([]byte, 48)
	}
	return make([]byte, 24)
}

// TestFloodedPings: pings beyond what a peer reads the answers of are not answered.
func TestFloodedPings(t *testing.T) {
	c := hostileState(t, 3, true)
	c.net.stall(1, true)
	a, p := c.Nodes[0], c.net.pair
	for range 1 << 20 {
		a.core.Receive(0, p.gen[0], protocol.MetaStream, protocol.Header{Command: protocol.CmdPing}, nil, nil)
	}
	require.Less(t, a.core.OutPending(0, protocol.MetaStream), 5<<20)
	require.True(t, a.core.Flooded(0), "the data stream is not read either")
}

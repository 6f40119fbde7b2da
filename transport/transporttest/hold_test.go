// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// packet is a packet without content, in the form of version 86.
func packet(cmd protocol.Command) []byte {
	return append([]byte{0x83, 0x74, 0x02, 0x67, byte(cmd >> 8), byte(cmd), 0, 4}, "body"...)
}

// TestHolder: a held packet and what follows it on its stream wait, the other stream goes
// on, bytes that are no packet pass, and a reader can be called off.
func TestHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		defer n.Close()
		h := NewHolder(n.Transport("beta", "alpha"))
		a, b := connect(t, n.Transport("alpha", "beta"), h)
		defer a.Close()
		defer b.Close()
		h.Hold(protocol.CmdSizes)
		got := make(chan []byte, 10)
		go func() {
			defer close(got)
			for {
				p := make([]byte, 12)
				if _, err := io.ReadFull(b.Data, p); err != nil {
					return
				}
				got <- p
			}
		}()
		for _, c := range []protocol.Command{protocol.CmdState, protocol.CmdSizes, protocol.CmdData} {
			_, err := a.Data.Write(packet(c))
			require.NoError(t, err)
		}
		h.WaitHeld(1)
		synctest.Wait()
		require.Len(t, got, 1)
		require.Equal(t, packet(protocol.CmdState), <-got)
		_, err := a.Meta.Write(append(packet(protocol.CmdPing), "nopacket"...))
		require.NoError(t, err)
		p := make([]byte, 20)
		_, err = io.ReadFull(b.Meta, p)
		require.NoError(t, err)
		require.Equal(t, "nopacket", string(p[12:]))
		h.Release()
		synctest.Wait()
		require.Equal(t, packet(protocol.CmdSizes), <-got)
		require.Equal(t, packet(protocol.CmdData), <-got)
		h.Hold(protocol.CmdSizes)
		_, err = a.Data.Write(packet(protocol.CmdSizes))
		require.NoError(t, err)
		h.WaitHeld(1)
		require.NoError(t, b.Data.SetReadDeadline(time.Now()))
		_, more := <-got
		require.False(t, more)
	})
}

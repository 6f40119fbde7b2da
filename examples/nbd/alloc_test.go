// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// A read and a write allocate nothing, on either side of the connection.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	c := open(t, listen(t, newServer(t, Config{}, memory("", 1<<20))), "", false)
	write := encodeRequest(request{command: cmdWrite, offset: 4096, length: 4096}, make([]byte, 4096))
	read := encodeRequest(request{command: cmdRead, offset: 4096, length: 4096}, nil)
	reply := make([]byte, simpleReplySize+4096)
	round := func() {
		if _, err := c.nc.Write(write); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(c.r, reply[:simpleReplySize]); err != nil {
			t.Error(err)
		}
		if _, err := c.nc.Write(read); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(c.r, reply); err != nil {
			t.Error(err)
		}
	}
	for range 100 {
		round() // workers and buffers come into being
	}
	require.Less(t, testing.AllocsPerRun(2000, round), 1.0)
}

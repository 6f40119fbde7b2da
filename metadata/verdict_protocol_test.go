// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
)

// Callers turn the numbers of package protocol into those of this one.
func TestNumbersAgreeWithProtocol(t *testing.T) {
	for d := metadata.DiskDiskless; d <= metadata.DiskUpToDate; d++ {
		require.Equal(t, protocol.DiskState(d).String(), d.String())
	}
	for p := metadata.PolicyDisconnect; p <= metadata.PolicyViolently; p++ {
		require.Equal(t, protocol.Policy(p).String(), p.String())
		require.Equal(t, protocol.Policy(p).Mirrored(), protocol.Policy(p.Mirror()))
	}
	require.Equal(t, uint32(protocol.FeatureWSame), metadata.FeatureWriteSame)
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// TestHeaderForms: which form is sent and which are accepted. spec: wire 2.
func TestHeaderForms(t *testing.T) {
	data := func(n uint32) protocol.Header {
		return protocol.Header{Command: protocol.CmdData, Length: n}
	}
	inVolume := protocol.Header{Command: protocol.CmdState, Volume: 7, Length: 4}
	for _, tt := range []struct {
		name string
		v    protocol.Version
		h    protocol.Header
		want string
	}{
		{"before the agreement", 0, protocol.Header{Command: protocol.CmdConnectionFeatures, Length: 72}, "83740267 fffe 0048"},
		{"86", 86, data(32792), "83740267 0000 8018"},
		{"94, the longest", 94, data(65535), "83740267 0000 ffff"},
		{"94, too long for h80", 94, data(65536), "835a 0000 00010000"},
		{"95, 32 KiB", 95, data(32768), "83740267 0000 8000"},
		{"95, more", 95, data(32769), "835a 0000 00008001"},
		{"99", 99, data(131096), "835a 0000 00020018"},
		{"99, short", 99, data(0), "83740267 0000 0000"},
		{"100", 100, inVolume, "8620ec20 0007 000e 00000004 00000000"},
		{"101", 101, inVolume, "8620ec20 0007 000e 00000004 00000000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := protocol.AppendHeader([]byte{9}, tt.v, tt.h)
			require.Equal(t, unhex(t, "09"+tt.want), got)
			var b [protocol.MaxHeaderBytes]byte
			require.Equal(t, len(got)-1, protocol.PutHeader(b[:], tt.v, tt.h))
			require.Equal(t, got[1:], b[:len(got)-1])
			require.Len(t, got[1:], protocol.HeaderSize(tt.v))
			h, err := protocol.DecodeHeader(got[1:], tt.v)
			require.NoError(t, err)
			require.Equal(t, tt.h, h)
		})
	}
}

func TestDecodeHeaderRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		v     protocol.Version
		bytes string
		want  error
	}{
		{"h80 in 94", 94, "83740267 0013 0000", nil},
		{"h95 in 86", 86, "835a 0013 00000000", nil},
		{"h95 in 95", 95, "835a 0013 00000000", nil},
		{"h95 before the agreement", 0, "835a 0013 00000000", nil},
		{"h80 in 100", 100, "83740267 0013 0000 0000000000000000", protocol.ErrBadMagic},
		{"h95 in 101", 101, "835a 0013 00000000 0000000000000000", protocol.ErrBadMagic},
		{"h100 in 99", 99, "8620ec20 0000 0013", protocol.ErrBadMagic},
		{"padding", 101, "8620ec20 0000 0013 00000000 00000001", protocol.ErrHeaderPadding},
		{"padding, high byte", 100, "8620ec20 0000 0013 00000000 80000000", protocol.ErrHeaderPadding},
		{"zeroes", 101, "00000000 0000 0013 00000000 00000000", protocol.ErrBadMagic},
		{"8 bytes of 16", 101, "8620ec20 0000 0013", protocol.ErrHeaderSize},
		{"16 bytes for 8", 99, "83740267 0013 0000 0000000000000000", protocol.ErrHeaderSize},
		{"nothing", 0, "", protocol.ErrHeaderSize},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := protocol.DecodeHeader(unhex(t, tt.bytes), tt.v)
			require.ErrorIs(t, err, tt.want)
		})
	}
}

// versions draws a protocol version, 0 included.
func versions(t *rapid.T) protocol.Version {
	return protocol.Version(rapid.SampledFrom([]int{0, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 101}).Draw(t, "version"))
}

func TestHeaderIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := versions(t)
		h := protocol.Header{
			Command: protocol.Command(rapid.Uint16().Draw(t, "command")),
			Length:  rapid.Uint32().Draw(t, "length"),
		}
		if v >= 100 {
			h.Volume = rapid.Uint16().Draw(t, "volume")
		}
		got, err := protocol.DecodeHeader(protocol.AppendHeader(nil, v, h), v)
		require.NoError(t, err)
		require.Equal(t, h, got)
	})
}

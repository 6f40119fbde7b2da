// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/protocol"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

// TestWorkedBytes holds the examples of spec: wire 13. The compressed bitmaps among
// them belong to package bitmap but for their first byte.
func TestWorkedBytes(t *testing.T) {
	opening := &protocol.Session{}
	v101 := &protocol.Session{Version: 101, Features: protocol.AllFeatures}
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"P_INITIAL_DATA", protocol.AppendInitial(nil, protocol.DataStream), "83740267 fff2 0000"},
		{"P_INITIAL_META", protocol.AppendInitial(nil, protocol.MetaStream), "83740267 fff1 0000"},
		{
			"P_CONNECTION_FEATURES",
			protocol.AppendPacket(nil, opening, protocol.CmdConnectionFeatures, 0, protocol.DefaultConnectionFeatures(), 0),
			"83740267 fffe 0048 00000056 0000000f 00000065 00000000" + strings.Repeat("00", 56),
		},
		{
			"P_CONNECTION_FEATURES by a session that is ahead of it",
			protocol.AppendPacket(nil, v101, protocol.CmdConnectionFeatures, 3, protocol.DefaultConnectionFeatures(), 0),
			"83740267 fffe 0048 00000056 0000000f 00000065 00000000" + strings.Repeat("00", 56),
		},
		{"P_PING", protocol.AppendEmpty(nil, v101, protocol.CmdPing, 0), "8620ec20 0000 0013 00000000 00000000"},
		{
			"P_STATE",
			protocol.AppendPacket(nil, v101, protocol.CmdState, 0, protocol.State{
				Role: protocol.Primary, Peer: protocol.Secondary, Conn: protocol.Connected,
				Disk: protocol.UpToDate, PeerDisk: protocol.UpToDate,
			}, 0),
			"8620ec20 0000 000e 00000004 00000000 000110a9",
		},
		{
			"promotion",
			protocol.AppendPacket(nil, v101, protocol.CmdStateChgReq, 0, protocol.StateRequest{}.WithRole(protocol.Primary), 0),
			"8620ec20 0000 0012 00000008 00000000 00000003 00000001",
		},
		{
			"its reply",
			protocol.AppendPacket(nil, v101, protocol.CmdStateChgReply, 0, protocol.StateReply{Code: protocol.CodeSuccess}, 0),
			"8620ec20 0000 001d 00000004 00000000 00000001",
		},
		{
			"disconnect",
			protocol.StateRequest{}.WithConn(protocol.Disconnecting).AppendTo(nil, v101),
			"000001f0 00000010",
		},
		{
			"compressed bitmap, all ones",
			protocol.CompressedBitmap{StartsSet: true, PadBits: 3, Code: unhex(t, "3fe50e")}.AppendTo(nil, v101),
			"b2 3f e5 0e",
		},
		{
			"compressed bitmap, some runs",
			protocol.CompressedBitmap{PadBits: 1, Code: unhex(t, "cdc772f9e921fc2004")}.AppendTo(nil, v101),
			"12 cd c7 72 f9 e9 21 fc 20 04",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, hex.EncodeToString(unhex(t, tt.want)), hex.EncodeToString(tt.got))
		})
	}
}

// TestDigests: the two of spec: wire 13, and published test vectors.
func TestDigests(t *testing.T) {
	block := bytes.Repeat([]byte("one\n"), 1024)
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"crc32c", block, "3361d47a"},
		{"xxhash64", block, "7f622c4c34177fa2"},
		{"crc32c", []byte("123456789"), "839206e3"},
		{"xxhash64", nil, "99e9d85137db46ef"},
		{"md5", []byte("abc"), "900150983cd24fb0d6963f7d28e17f72"},
		{"sha1", []byte("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d"},
		{"sha224", []byte("abc"), "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"},
		{"sha256", []byte("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{"sha384", []byte("abc"), "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"},
		{"sha512", []byte("abc"), "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"},
		{"", []byte("abc"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := protocol.LookupDigest(tt.name)
			require.NoError(t, err)
			require.Equal(t, tt.name, d.Name())
			got := d.Sum([]byte{1}, tt.data)
			require.Equal(t, byte(1), got[0], "Sum appends")
			require.Equal(t, tt.want, hex.EncodeToString(got[1:]))
			require.Equal(t, d.Size(), len(got)-1)
			require.NoError(t, d.Verify(tt.data, got[1:]))
			if d.Size() == 0 {
				return
			}
			require.LessOrEqual(t, d.Size(), protocol.MaxDigestBytes)
			got[1] ^= 1
			require.ErrorIs(t, d.Verify(tt.data, got[1:]), protocol.ErrDigest)
			require.ErrorIs(t, d.Verify(tt.data, got[2:]), protocol.ErrDigest)
			require.ErrorIs(t, d.Verify(tt.data, nil), protocol.ErrDigest)
		})
	}
	for _, name := range []string{"crc32", "CRC32C", "crc32c ", "hmac(sha1)", "xxh64", "\x00"} {
		_, err := protocol.LookupDigest(name)
		require.ErrorIs(t, err, protocol.ErrUnknownAlgorithm, name)
	}
}

func TestAuthentication(t *testing.T) {
	secret := []byte("sekrit-for-wire-test")
	challenge := unhex(t, "c43920c63db41ba8850617fdff1306763659ce751cdfae0c66a408090763945e74e3e3e45e98896f0c39bbc01b32fbae14e00988c1ea01491a16ca2bfd29c3d2")
	const want = "5b8fd04d27b3a466765bd1993f5856833b50b84e"
	got, err := protocol.Response("sha1", secret, challenge)
	require.NoError(t, err)
	require.Equal(t, want, hex.EncodeToString(got))
	require.NoError(t, protocol.VerifyResponse("sha1", secret, challenge, got))

	// RFC 4231, test case 2: HMAC over a message, by the longer hashes.
	for alg, want := range map[string]string{
		"sha224": "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44",
		"sha256": "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
	} {
		got, err := protocol.Response(alg, []byte("Jefe"), []byte("what do ya want for nothing?"))
		require.NoError(t, err)
		require.Equal(t, want, hex.EncodeToString(got), alg)
	}

	got[0] ^= 0x80
	require.ErrorIs(t, protocol.VerifyResponse("sha1", secret, challenge, got), protocol.ErrAuthentication)
	got[0] ^= 0x80
	require.ErrorIs(t, protocol.VerifyResponse("sha1", []byte("other"), challenge, got), protocol.ErrAuthentication)
	require.ErrorIs(t, protocol.VerifyResponse("sha1", secret, challenge, got[1:]), protocol.ErrResponseLength)
	require.ErrorIs(t, protocol.VerifyResponse("sha1", secret, challenge, nil), protocol.ErrResponseLength)
	require.ErrorIs(t, protocol.VerifyResponse("sha256", secret, challenge, got), protocol.ErrResponseLength)
	for _, alg := range []string{"", "crc32c", "xxhash64", "nonsense"} {
		_, err := protocol.Response(alg, secret, challenge)
		require.ErrorIs(t, err, protocol.ErrUnknownAlgorithm, alg)
	}
	_, err = protocol.Response("sha1", nil, challenge)
	require.ErrorIs(t, err, protocol.ErrSecret)
	_, err = protocol.Response("sha1", bytes.Repeat([]byte("x"), 63), challenge)
	require.NoError(t, err)
	_, err = protocol.Response("sha1", bytes.Repeat([]byte("x"), 64), challenge)
	require.ErrorIs(t, err, protocol.ErrSecret)
}

func TestChallenge(t *testing.T) {
	own, err := protocol.NewChallenge(bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte{7}, 64), own)
	_, err = protocol.NewChallenge(bytes.NewReader(make([]byte, 63)))
	require.Error(t, err)

	peer := bytes.Repeat([]byte{8}, 128)
	require.NoError(t, protocol.CheckChallenge(own, peer))
	require.NoError(t, protocol.CheckChallenge(own, peer[:64]))
	require.ErrorIs(t, protocol.CheckChallenge(own, peer[:63]), protocol.ErrChallenge)
	require.ErrorIs(t, protocol.CheckChallenge(own, append(peer, 8)), protocol.ErrChallenge)
	require.ErrorIs(t, protocol.CheckChallenge(own, own), protocol.ErrReflection)
	require.ErrorIs(t, protocol.CheckChallenge(own, append(own[:64:64], 9, 9)), protocol.ErrReflection)
}

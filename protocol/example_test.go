// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol_test

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// Two nodes agree on a version, one sends a write, the other reads it.
func Example() {
	own := protocol.DefaultConnectionFeatures()
	peer := protocol.ConnectionFeatures{Min: 86, Max: 124, Features: 0x1f} // a DRBD 9 node
	version, features, err := protocol.Negotiate(own, peer)
	if err != nil {
		fmt.Println(err)
		return
	}
	session := &protocol.Session{Version: version, Features: features}

	data := make([]byte, 4096)
	packet := protocol.AppendPacket(nil, session, protocol.CmdData, 0, protocol.Data{
		Sector: 2048, ID: 7, Seq: 1, Flags: protocol.DPRWSync | protocol.DPSendWriteAck,
	}, len(data))
	packet = append(packet, data...)

	n := protocol.HeaderSize(session.Version)
	h, err := protocol.DecodeHeader(packet[:n], session.Version)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := session.CheckHeader(protocol.DataStream, h); err != nil {
		fmt.Println(err)
		return
	}
	front := packet[n : n+session.PayloadOffset(h)]
	var write protocol.Data
	if err := write.DecodeAs(h.Command, front, session); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("version", version, "features", features)
	fmt.Println(h.Command, "sector", write.Sector, "flags", write.Flags, "data", int(h.Length)-len(front))
	// Output:
	// version 101 features TRIM|THIN_RESYNC|WSAME|WZEROES
	// P_DATA sector 2048 flags RW_SYNC|SEND_WRITE_ACK data 4096
}

// A state request is sent in the sender's view and turned round by the receiver.
func ExampleStateRequest() {
	request := protocol.StateRequest{}.WithConn(protocol.Disconnecting).WithPeerDisk(protocol.Outdated)
	fmt.Println("sent:", request)
	fmt.Println("seen:", request.Swapped())
	// Output:
	// sent: {conn=Disconnecting pdsk=Outdated}
	// seen: {conn=TearDown disk=Outdated}
}

// A header says whether its packet is welcome before any of it is read.
func ExampleSession_CheckHeader() {
	session := &protocol.Session{Version: 95}
	for _, h := range []protocol.Header{
		{Command: protocol.CmdWriteAck, Length: 24},
		{Command: protocol.CmdWriteAck, Length: 25},
		{Command: protocol.CmdRSCancel, Length: 24},
		{Command: protocol.CmdData, Length: 24},
	} {
		fmt.Println(session.CheckHeader(protocol.MetaStream, h))
	}
	// Output:
	// <nil>
	// protocol: wrong packet length: P_WRITE_ACK of 25 bytes, want 24
	// protocol: unknown packet: protocol: packet was not negotiated: P_RS_CANCEL in version 95 with features 0
	// protocol: packet on the wrong stream: P_DATA on meta
}

// The two sides of CRAM-HMAC authentication.
func ExampleVerifyResponse() {
	secret := []byte("sekrit-for-wire-test")
	challenge := make([]byte, protocol.ChallengeBytes) // NewChallenge(rand.Reader)

	response, err := protocol.Response("sha256", secret, challenge) // the peer does this
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(protocol.VerifyResponse("sha256", secret, challenge, response))
	fmt.Println(protocol.VerifyResponse("sha256", []byte("other"), challenge, response))
	// Output:
	// <nil>
	// protocol: peer does not know the shared secret
}

// crc32c goes on the wire as a little-endian number.
func ExampleDigest_Sum() {
	d, err := protocol.LookupDigest("crc32c")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d bytes: %x\n", d.Size(), d.Sum(nil, []byte("123456789")))
	// Output: 4 bytes: 839206e3
}

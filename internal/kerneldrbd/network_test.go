// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kerneldrbd

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/stretchr/testify/require"
)

// closedPort returns a port of 127.0.0.1 on which nothing listens now.
func closedPort(t testing.TB) int {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// patientOptions are for a slow guest: a pause does not count as a failure, while a
// connection is formed as quickly as possible.
var patientOptions = []string{"--ping-timeout=300", "--socket-check-timeout=3", "--connect-int=3", "--ping-int=120", "--timeout=290", "--protocol=C"}

// testKernelDials: the node's dials reach nobody, so both streams are the kernel's.
func testKernelDials(t *testing.T, g *Guest, _ []string) {
	own := closedPort(t)
	testConnection(t, g, transport.TCPConfig{
		Local:  fmt.Sprintf("127.0.0.1:%d", own),
		Remote: fmt.Sprintf("127.0.0.1:%d", closedPort(t)),
	}, own)
}

// testKernelIsDialled: the kernel's dials reach nobody, so both streams are the node's.
func testKernelIsDialled(t *testing.T, g *Guest, _ []string) {
	testConnection(t, g, transport.TCPConfig{
		Local:  fmt.Sprintf("127.0.0.1:%d", closedPort(t)),
		Remote: fmt.Sprintf("127.0.0.1:%d", g.HostPort(7788)),
	}, closedPort(t))
}

// testConnection connects a kernel with a peer that is written out here: a diskless
// Secondary, which exchanges parameters and leaves again.
func testConnection(t *testing.T, g *Guest, cfg transport.TCPConfig, kernelDials int) {
	ctx := withTimeout(t)
	r := newResource(t, g)
	r.NetOptions = patientOptions
	mark, err := g.Mark(ctx)
	require.NoError(t, err)
	require.NoError(t, r.Connect(ctx, kernelDials))
	cfg.ConnectInterval, cfg.PingTimeout, cfg.SocketCheckTimeout = 3*time.Second, 30*time.Second, 300*time.Millisecond
	tr, err := transport.NewTCP(cfg)
	require.NoError(t, err)
	defer tr.Close()
	pair, err := tr.Connect(ctx)
	require.NoError(t, err)
	defer pair.Close()
	t.Log("resolver:", pair.Resolver)

	deadline, _ := ctx.Deadline()
	require.NoError(t, pair.Data.SetDeadline(deadline))
	require.NoError(t, pair.Meta.SetDeadline(deadline))
	p := &handPeer{t: t, data: pair.Data, session: &protocol.Session{}}
	p.handshake()
	sizes := p.parameters()
	require.EqualValues(t, 1<<20, sizes.MaxBioBytes)
	_, err = r.WaitState(ctx, "Connected Secondary/Secondary Inconsistent/Diskless")
	require.NoError(t, err)

	// A graceful end: the kernel consents, then both close.
	p.send(protocol.AppendPacket(nil, p.session, protocol.CmdConnStChgReq, 0, protocol.StateRequest{}.WithConn(protocol.Disconnecting), 0))
	require.Equal(t, protocol.CmdConnStChgReply, p.header(pair.Meta).Command)
	require.NoError(t, pair.Close())
	_, err = r.WaitState(ctx, "WFConnection Secondary/Unknown Inconsistent/DUnknown")
	require.NoError(t, err)
	lines, err := g.Log(ctx, mark)
	require.NoError(t, err)
	for _, line := range lines {
		require.NotRegexp(t, "BrokenPipe|ProtocolError|NetworkFailure|Timeout|ASSERT", line)
	}
	require.NoError(t, r.Down(ctx))
}

// handPeer speaks on a data stream.
type handPeer struct {
	t       *testing.T
	data    net.Conn
	session *protocol.Session
}

func (p *handPeer) send(packet []byte) {
	_, err := p.data.Write(packet)
	require.NoError(p.t, err)
}

// header reads the next header of a stream.
func (p *handPeer) header(c net.Conn) protocol.Header {
	b := make([]byte, protocol.HeaderSize(p.session.Version))
	_, err := io.ReadFull(c, b)
	require.NoError(p.t, err)
	h, err := protocol.DecodeHeader(b, p.session.Version)
	require.NoError(p.t, err)
	return h
}

// receive reads the next packet of the data stream.
func (p *handPeer) receive() (protocol.Header, []byte) {
	h := p.header(p.data)
	require.NoError(p.t, p.session.CheckHeader(protocol.DataStream, h))
	body := make([]byte, h.Length)
	_, err := io.ReadFull(p.data, body)
	require.NoError(p.t, err)
	return h, body
}

// handshake agrees on version and features.
func (p *handPeer) handshake() {
	own := protocol.DefaultConnectionFeatures()
	p.send(protocol.AppendPacket(nil, p.session, protocol.CmdConnectionFeatures, 0, own, 0))
	h, body := p.receive()
	require.Equal(p.t, protocol.CmdConnectionFeatures, h.Command)
	var peer protocol.ConnectionFeatures
	require.NoError(p.t, peer.Decode(body, p.session))
	require.Equal(p.t, own, peer, "the kernel offers what this package can do")
	version, features, err := protocol.Negotiate(own, peer)
	require.NoError(p.t, err)
	p.session.Version, p.session.Features = version, features
	require.EqualValues(p.t, 101, version)
}

// parameters exchanges what a connection begins with, up to the first state packet of
// the kernel, and returns the kernel's sizes.
func (p *handPeer) parameters() (sizes protocol.Sizes) {
	s := p.session
	b := protocol.AppendPacket(nil, s, protocol.CmdProtocol, 0, protocol.Protocol{Replication: protocol.C}, 0)
	b = protocol.AppendPacket(b, s, protocol.CmdSyncParam89, 0, protocol.DefaultSyncParam(), 0)
	b = protocol.AppendPacket(b, s, protocol.CmdSizes, 0, protocol.Sizes{MaxBioBytes: 1 << 20}, 0)
	b = protocol.AppendPacket(b, s, protocol.CmdState, 0, protocol.State{
		Role: protocol.Secondary, Conn: protocol.WFConnection, Disk: protocol.Diskless, PeerDisk: protocol.DUnknown,
	}, 0)
	p.send(b)
	for seen := map[protocol.Command]int{}; ; {
		h, body := p.receive()
		seen[h.Command]++
		switch h.Command {
		case protocol.CmdSizes:
			require.NoError(p.t, sizes.Decode(body, s))
		case protocol.CmdState:
			var state protocol.State
			require.NoError(p.t, state.Decode(body, s))
			require.Equal(p.t, protocol.Inconsistent, state.Disk)
			require.Equal(p.t, map[protocol.Command]int{
				protocol.CmdProtocol: 1, protocol.CmdSyncParam89: 1, protocol.CmdSizes: 1, protocol.CmdUUIDs: 1, protocol.CmdState: 1,
			}, seen)
			return sizes
		}
	}
}

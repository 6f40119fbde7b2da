// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/go-blockmirror/blockmirror/examples/nbd"
	"github.com/go-blockmirror/blockmirror/examples/nbd/volume"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport/transporttest"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns two connected nodes, both Secondary, whose disks are the same.
func pair(t *testing.T) (alpha, beta *replica.Resource) {
	network := transporttest.NewNetwork(1)
	open := func(name, peer string) *replica.Resource {
		disk := blockdev.NewMemory(32 << 20)
		require.NoError(t, replica.CreateMetadata(replica.Disk{Device: disk}, metadata.CreateOptions{}))
		res, err := replica.Open(t.Context(), replica.Config{
			Name: "r0", Volumes: []replica.VolumeConfig{{Disk: disk}},
			Peers: []replica.PeerConfig{{Name: peer, Transport: network.Transport(name, peer)}},
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, res.Close()) })
		require.NoError(t, res.Connect(t.Context()))
		return res
	}
	alpha, beta = open("alpha", "beta"), open("beta", "alpha")
	require.NoError(t, alpha.WaitConnected(t.Context()))
	require.NoError(t, beta.WaitConnected(t.Context()))
	require.NoError(t, alpha.Promote(t.Context(), replica.Force()))
	require.NoError(t, alpha.WaitSync(t.Context()))
	require.NoError(t, alpha.Demote(t.Context()))
	return alpha, beta
}

func serve(t *testing.T, e nbd.Export) (uri string, s *nbd.Server) {
	s, err := nbd.NewServer(nbd.Config{})
	require.NoError(t, err)
	require.NoError(t, s.Add(e))
	dir, err := os.MkdirTemp("", "nbd")
	require.NoError(t, err)
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	require.NoError(t, err)
	go s.Serve(l)
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		os.RemoveAll(dir)
	})
	return "nbd+unix:///" + e.Name + "?socket=" + l.Addr().String(), s
}

func qemuIO(t *testing.T, uri string, commands ...string) (string, error) {
	path, err := exec.LookPath("qemu-io")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("qemu-io is missing: install Debian's qemu-utils")
		}
		t.Skip("qemu-io is missing: install Debian's qemu-utils to run this test")
	}
	args := []string{"-f", "raw", "-d", "unmap", uri}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	return string(out), err
}

// The node a client comes to becomes Primary, for as long as the client stays, and
// what the client has written is on the other node.
func TestPromotionOnDemand(t *testing.T) {
	alpha, beta := pair(t)
	export := func(res *replica.Resource) nbd.Export {
		p := volume.NewPromotion(res)
		e := volume.Export("r0", res.Volume(0))
		e.Open, e.Close = p.Open, p.Close
		return e
	}
	uri, server := serve(t, export(alpha))
	out, err := qemuIO(t, uri, "write -P 17 0 1M", "write -f -P 18 1M 4k", "write -z 2M 1M", "write -z -u 3M 1M", "discard 4M 1M",
		"flush", "read -P 17 0 1M", "read -P 0 2M 2M")
	require.NoError(t, err, out)
	require.NotContains(t, out, "fail")
	require.NoError(t, server.Remove(t.Context(), "r0"), "returns when the client has gone and its Close is done")
	require.Equal(t, protocol.Secondary, alpha.Status().Role())

	uri, server = serve(t, export(beta))
	out, err = qemuIO(t, uri, "read -P 17 0 1M", "read -P 18 1M 4k", "read -P 0 2M 2M")
	require.NoError(t, err, out)
	require.NotContains(t, out, "fail")
	require.NoError(t, server.Remove(t.Context(), "r0"))

	// While the peer is Primary, a client is refused, and told.
	require.NoError(t, alpha.Promote(t.Context()))
	uri, _ = serve(t, export(beta))
	out, err = qemuIO(t, uri, "read 0 512")
	require.Error(t, err)
	require.Contains(t, out, "server reported")
}

// Without a Promotion a Secondary refuses, and a Primary that is demoted by hand
// answers with an error.
func TestRoles(t *testing.T) {
	alpha, _ := pair(t)
	e := volume.Export("r0", alpha.Volume(0))
	require.ErrorIs(t, e.Open(t.Context()), nbd.EPERM)
	uri, _ := serve(t, e)
	out, err := qemuIO(t, uri, "read 0 512")
	require.Error(t, err)
	require.Contains(t, out, "Secondary")
	require.NoError(t, alpha.Promote(t.Context()))
	require.NoError(t, e.Open(t.Context()))
}

// What a volume says is what a client is told.
func TestBackend(t *testing.T) {
	alpha, _ := pair(t)
	ctx, b := t.Context(), volume.NewBackend(alpha.Volume(0))
	page := bytes.Repeat([]byte{7}, 4096)
	require.ErrorIs(t, b.WriteAt(ctx, page, 0, false), nbd.EPERM)
	p := volume.NewPromotion(alpha)
	require.NoError(t, p.Open(ctx))
	require.NoError(t, p.Open(ctx))
	require.NoError(t, b.WriteAt(ctx, page, 0, true))
	require.NoError(t, b.WriteAt(ctx, page, 8192, false))
	require.NoError(t, b.WriteZeroes(ctx, 4096, 4096, nbd.ZeroFlags{NoHole: true}))
	require.NoError(t, b.WriteZeroes(ctx, 8192, 4096, nbd.ZeroFlags{}))
	require.NoError(t, b.Trim(ctx, 16384, 4096))
	require.NoError(t, b.Flush(ctx))
	got := make([]byte, 3*4096)
	require.NoError(t, b.ReadAt(ctx, got, 0))
	require.Equal(t, append(page, make([]byte, 8192)...), got)
	require.ErrorIs(t, b.ReadAt(ctx, got[:100], 0), nbd.EINVAL)
	require.ErrorIs(t, b.WriteAt(ctx, page, b.Size(), false), nbd.EINVAL)
	require.ErrorIs(t, b.ReadAt(ctx, got, b.Size()-4096), nbd.EINVAL)
	require.NoError(t, p.Close())
	require.Equal(t, protocol.Primary, alpha.Status().Role(), "one user is left")
	require.NoError(t, p.Close())
	require.Equal(t, protocol.Secondary, alpha.Status().Role())

	require.NoError(t, alpha.Promote(ctx))
	require.NoError(t, p.Open(ctx))
	require.NoError(t, p.Close())
	require.Equal(t, protocol.Primary, alpha.Status().Role(), "it was before")
	require.NoError(t, alpha.Close())
	require.ErrorIs(t, b.Flush(ctx), nbd.ESHUTDOWN)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	require.Error(t, p.Open(gone))
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/replay"
	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/stretchr/testify/require"
)

// labNode is a node whose commands, requests and packets are recorded, if that was asked
// for.
type labNode struct {
	*replica.Resource
	rec *recorder
}

// labVolume is one of its volumes.
type labVolume struct {
	*replica.Volume
	rec   *recorder
	index int
}

// recorder collects what package replay plays. A nil one does nothing.
type recorder struct {
	mu    sync.Mutex
	began time.Time
	list  replay.Recording
	ids   int
	pairs int
	cfg   *replica.Config
}

// newRecorder returns nil if nothing is to be recorded.
func newRecorder() *recorder {
	if !*kernelRecord {
		return nil
	}
	return &recorder{began: time.Now()}
}

func (r *recorder) add(e replay.Entry) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Millis = time.Since(r.began).Milliseconds()
	r.list = append(r.list, e)
}

// call records a command or request and its end.
func (r *recorder) call(e replay.Entry, run func() error) error {
	if r == nil {
		return run()
	}
	r.mu.Lock()
	r.ids++
	e.ID = r.ids
	r.mu.Unlock()
	r.add(e)
	err := run()
	r.add(replay.Entry{Kind: replay.Return, ID: e.ID, Failed: err != nil})
	return err
}

// open records the beginning of a node.
func (r *recorder) open(cfg *replica.Config) {
	if r == nil {
		return
	}
	e := replay.Entry{Kind: replay.Open}
	for i := range cfg.Volumes {
		v := &cfg.Volumes[i]
		e.Disks = append(e.Disks, describeDisk(replica.Disk{Device: v.Disk, MetaDisk: v.MetaDisk, MetaDevice: v.MetaDevice}))
	}
	c := replica.CoreConfig(*cfg)
	e.Config = &replay.Config{Name: c.Name, Volumes: c.Volumes, Peers: c.Peers, Net: c.Net}
	r.add(e)
	r.cfg = cfg
	replica.RecordRandom(cfg, func(v uint64) { r.add(replay.Entry{Kind: replay.Rand, Value: v}) })
}

func describeDisk(d replica.Disk) replay.Disk {
	if d.Device == nil {
		return replay.Disk{}
	}
	read := func(dev blockdev.Device) replay.Content {
		b := make([]byte, dev.Size())
		if err := blockdev.ReadAt(dev, b, 0); err != nil {
			panic(err)
		}
		return replay.Describe(b)
	}
	out := replay.Disk{Size: d.Device.Size(), Data: read(d.Device), Limits: replica.CoreLimits(d.Device)}
	if d.MetaDevice != nil {
		out.Location, out.MetaSize, out.Meta = d.MetaDisk.String(), d.MetaDevice.Size(), read(d.MetaDevice)
	}
	return out
}

// status records what the node says when all is quiet.
func (r *recorder) status(n *labNode) {
	if r != nil {
		r.add(replay.Entry{Kind: replay.Status, Volumes: replay.StatusOf(replica.CoreSnapshot(n.Resource))})
	}
}

// write stores the recording of a test that passed.
func (r *recorder) write(t *testing.T) {
	if r == nil || t.Failed() {
		return
	}
	var b bytes.Buffer
	r.mu.Lock()
	defer r.mu.Unlock()
	require.NoError(t, r.list.Write(&b))
	name := strings.Map(func(c rune) rune {
		if strings.ContainsRune("/,_ ", c) {
			return '-'
		}
		return c
	}, strings.TrimPrefix(t.Name(), "TestKernel/"))
	const limit = 160 << 10
	if b.Len() > limit {
		t.Logf("%s: a recording of %d KiB is not kept", name, b.Len()>>10)
		return
	}
	// What depends on a race, as a cut in the middle of writing, cannot be played exactly.
	dir := filepath.Join("internal", "replay", "testdata")
	exact, loose := filepath.Join(dir, name+".jsonl.gz"), filepath.Join(dir, "loose", name+".jsonl.gz")
	path, other := exact, loose
	if err := replay.Play(r.list, replay.Options{}); err != nil {
		t.Logf("%s cannot be played exactly: %v", name, err)
		path, other = loose, exact
	}
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	if err := os.Remove(other); err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	t.Logf("%s: %d entries, %d KiB", path, len(r.list), b.Len()>>10)
}

func (n *labNode) Connect(ctx context.Context, opts ...replica.ConnectOption) error {
	name := "connect"
	if o := replica.CoreConnectOptions(opts...); o.DiscardMyData {
		name = "connect-discard"
	} else if o.Tentative {
		name = "connect-tentative"
	}
	return n.command(name, func() error { return n.Resource.Connect(ctx, opts...) })
}

func (n *labNode) command(name string, run func() error) error {
	return n.rec.call(replay.Entry{Kind: replay.Command, Name: name}, run)
}

func (n *labNode) Disconnect(ctx context.Context, opts ...replica.DisconnectOption) error {
	name := "disconnect"
	if len(opts) > 0 {
		name = "disconnect-force"
	}
	return n.command(name, func() error { return n.Resource.Disconnect(ctx, opts...) })
}

func (n *labNode) Promote(ctx context.Context, opts ...replica.PromoteOption) error {
	name := "promote"
	if len(opts) > 0 {
		name = "promote-force"
	}
	return n.command(name, func() error { return n.Resource.Promote(ctx, opts...) })
}

func (n *labNode) Demote(ctx context.Context) error {
	return n.command("demote", func() error { return n.Resource.Demote(ctx) })
}

func (n *labNode) Close() error {
	return n.command("shutdown", n.Resource.Close)
}

// Shutdown is with a context that has ended: a kill.
func (n *labNode) Shutdown(ctx context.Context) error {
	n.rec.add(replay.Entry{Kind: replay.Kill})
	return n.Resource.Shutdown(ctx)
}

func (n *labNode) Volume(id uint16) *labVolume {
	return &labVolume{Volume: n.Resource.Volume(id), rec: n.rec, index: int(id)}
}

func (v *labVolume) io(kind string, off, size int64, data []byte, fua bool, run func() error) error {
	if v.rec == nil {
		return run()
	}
	return v.rec.call(replay.Entry{Kind: replay.IO, Name: kind, Volume: v.index, Off: off, Len: size, Data: replay.Describe(data), FUA: fua}, run)
}

func (v *labVolume) WriteAtContext(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = v.io("write", off, int64(len(p)), p, false, func() (err error) { n, err = v.Volume.WriteAtContext(ctx, p, off); return })
	return n, err
}

func (v *labVolume) WriteFUA(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = v.io("write", off, int64(len(p)), p, true, func() (err error) { n, err = v.Volume.WriteFUA(ctx, p, off); return })
	return n, err
}

func (v *labVolume) ReadAtContext(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = v.io("read", off, int64(len(p)), nil, false, func() (err error) { n, err = v.Volume.ReadAtContext(ctx, p, off); return })
	return n, err
}

func (v *labVolume) Flush(ctx context.Context) error {
	return v.io("flush", 0, 0, nil, false, func() error { return v.Volume.Flush(ctx) })
}

func (v *labVolume) Discard(ctx context.Context, off, n int64) error {
	return v.io("discard", off, n, nil, false, func() error { return v.Volume.Discard(ctx, off, n) })
}

func (v *labVolume) WriteZeroes(ctx context.Context, off, n int64) error {
	return v.io("zero", off, n, nil, false, func() error { return v.Volume.WriteZeroes(ctx, off, n) })
}

func (v *labVolume) command(name string, run func() error) error {
	return v.rec.call(replay.Entry{Kind: replay.Command, Name: name, Volume: v.index}, run)
}

func (v *labVolume) Attach(ctx context.Context) error {
	e := replay.Entry{Kind: replay.Command, Name: "attach", Volume: v.index}
	if v.rec != nil {
		c := &v.rec.cfg.Volumes[v.index]
		e.Disks = []replay.Disk{describeDisk(replica.Disk{Device: c.Disk, MetaDisk: c.MetaDisk, MetaDevice: c.MetaDevice})}
	}
	return v.rec.call(e, func() error { return v.Volume.Attach(ctx, replica.Disk{}) })
}

func (v *labVolume) Detach(ctx context.Context) error {
	return v.command("detach", func() error { return v.Volume.Detach(ctx) })
}

func (v *labVolume) Invalidate(ctx context.Context) error {
	return v.command("invalidate", func() error { return v.Volume.Invalidate(ctx) })
}

func (v *labVolume) InvalidateRemote(ctx context.Context) error {
	return v.command("invalidate-remote", func() error { return v.Volume.InvalidateRemote(ctx) })
}

func (v *labVolume) ClearBitmap(ctx context.Context) error {
	return v.command("clear-bitmap", func() error { return v.Volume.NewCurrentUUID(ctx, replica.ClearBitmap()) })
}

func (v *labVolume) Verify(ctx context.Context, opts ...replica.VerifyOption) (report replica.VerifyReport, err error) {
	o := replica.CoreVerifyOptions(opts...)
	e := replay.Entry{Kind: replay.Command, Name: "verify", Volume: v.index, Off: o.Start, Len: o.Stop}
	if o.Resume {
		e.Name = "verify-resume"
	}
	err = v.rec.call(e, func() (err error) { report, err = v.Volume.Verify(ctx, opts...); return })
	return report, err
}

func (v *labVolume) PauseSync(ctx context.Context) error {
	return v.command("pause-sync", func() error { return v.Volume.PauseSync(ctx) })
}

func (v *labVolume) ResumeSync(ctx context.Context) error {
	return v.command("resume-sync", func() error { return v.Volume.ResumeSync(ctx) })
}

// put writes to the node's disk behind its back.
func (d *duo) put(volume int, data []byte, off int64) {
	d.t.Helper()
	d.rec.add(replay.Entry{Kind: replay.Put, Volume: volume, Off: off, Data: replay.Describe(data)})
	_, err := d.disks[volume].WriteAt(data, off)
	require.NoError(d.t, err)
}

// inject and heal are faults of the data disk of volume 0.
func (d *duo) inject(f blockdev.Fault) {
	name := "read"
	if f.Kinds[0] == blockdev.OpWrite {
		name = "write"
	}
	d.rec.add(replay.Entry{Kind: replay.Fault, Name: name, Off: f.Off, Len: f.Len, Hang: f.Hang})
	d.disks[0].Inject(f)
}

func (d *duo) heal() {
	d.rec.add(replay.Entry{Kind: replay.Heal})
	d.disks[0].Heal()
}

// recordingTransport records what goes over the pairs of another.
type recordingTransport struct {
	transport.Transport
	rec *recorder
}

func (t *recordingTransport) Connect(ctx context.Context) (*transport.Pair, error) {
	pair, err := t.Transport.Connect(ctx)
	if err != nil {
		return nil, err
	}
	t.rec.mu.Lock()
	t.rec.pairs++
	n := t.rec.pairs
	t.rec.mu.Unlock()
	t.rec.add(replay.Entry{Kind: replay.Pair, Pair: n, Resolver: pair.Resolver})
	own := *pair
	own.Data = &recordingConn{Conn: pair.Data, rec: t.rec, pair: n, stream: protocol.DataStream}
	own.Meta = &recordingConn{Conn: pair.Meta, rec: t.rec, pair: n, stream: protocol.MetaStream}
	return &own, nil
}

// recordingConn is one of the two streams.
type recordingConn struct {
	net.Conn
	rec    *recorder
	pair   int
	stream protocol.Stream

	in, out replay.Framer
	ended   sync.Once
	mu      sync.Mutex // of out
}

func (c *recordingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	ferr := c.in.Feed(p[:n], 0, func(_ protocol.Header, whole []byte) error {
		_, data := replay.Split(whole)
		c.rec.add(replay.Entry{Kind: replay.Receive, Pair: c.pair, Stream: c.stream,
			Packet: bytes.Clone(whole[:len(whole)-len(data)]), Data: replay.Describe(data)})
		return nil
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) || ferr != nil {
		c.ended.Do(func() { c.rec.add(replay.Entry{Kind: replay.Ended, Pair: c.pair, Stream: c.stream}) })
	}
	return n, errors.Join(err, ferr)
}

func (c *recordingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	err := c.out.Feed(p, 0, func(_ protocol.Header, whole []byte) error {
		_, data := replay.Split(whole)
		c.rec.add(replay.Entry{Kind: replay.Send, Pair: c.pair, Stream: c.stream,
			Packet: bytes.Clone(whole[:len(whole)-len(data)]), Len: int64(len(data)), Hash: xxhash.Sum64(data)})
		return nil
	})
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *recordingConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

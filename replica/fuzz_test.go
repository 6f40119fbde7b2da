// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"bytes"
	"context"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/stretchr/testify/require"
)

// scriptConn is a stream from which a script can be read, and nothing more.
type scriptConn struct {
	net.Conn
	mu     sync.Mutex
	script *bytes.Reader
	after  chan struct{} // the script begins when this is closed
	ended  chan struct{} // closed at the end of the script
	closed chan struct{}
	once   sync.Once

	late chan struct{} // closed when the read deadline has passed; guarded by mu
}

func newScriptConn(script []byte, after chan struct{}) *scriptConn {
	return &scriptConn{script: bytes.NewReader(script), after: after, ended: make(chan struct{}), closed: make(chan struct{}), late: make(chan struct{})}
}

func (c *scriptConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	late := c.late
	c.mu.Unlock()
	select {
	case <-late:
		return 0, os.ErrDeadlineExceeded
	case <-c.after:
	case <-c.closed:
		return 0, net.ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.script.Read(p)
	if err != nil && !isClosed(c.ended) {
		close(c.ended)
	}
	return n, err
}

func (c *scriptConn) Write(p []byte) (int, error) { return len(p), nil }
func (c *scriptConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline takes every deadline for one that has passed.
func (c *scriptConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case t.IsZero():
		c.late = make(chan struct{})
	case !isClosed(c.late):
		close(c.late)
	}
	return nil
}

// scriptTransport forms one pair.
type scriptTransport struct{ pair chan *transport.Pair }

func (s *scriptTransport) Connect(ctx context.Context) (*transport.Pair, error) {
	select {
	case p := <-s.pair:
		return p, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
func (s *scriptTransport) Close() error   { return nil }
func (s *scriptTransport) String() string { return "script" }

// recordingTransport keeps what is received on the first pair.
type recordingTransport struct {
	transport.Transport
	data, meta *recordingConn
}

type recordingConn struct {
	net.Conn
	mu  sync.Mutex
	got bytes.Buffer
}

func (c *recordingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	c.got.Write(p[:n])
	c.mu.Unlock()
	return n, err
}

func (c *recordingConn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

func (c *recordingConn) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.got.Bytes())
}

func (r *recordingTransport) Connect(ctx context.Context) (*transport.Pair, error) {
	p, err := r.Transport.Connect(ctx)
	if err == nil {
		r.data, r.meta = &recordingConn{Conn: p.Data}, &recordingConn{Conn: p.Meta}
		p.Data, p.Meta = r.data, r.meta
	}
	return p, err
}

// record runs two nodes and returns what each of them received.
func record(f *testing.F, version int, fresh bool) (alpha, beta *recordingTransport) {
	recs := map[string]*recordingTransport{}
	p := newPair(f, pairOptions{size: 2 << 20, fresh: fresh, config: func(name string, cfg *Config) {
		recs[name] = &recordingTransport{Transport: cfg.Peers[0].Transport}
		cfg.Peers[0].Transport = recs[name]
		if version != 0 {
			cfg.Peers[0].MaxVersion = protocol.Version(version)
		}
	}})
	p.connect(f)
	ctx := testContext(f)
	require.NoError(f, p.alpha.res.Promote(ctx, Force()))
	require.NoError(f, p.alpha.res.WaitSync(ctx))
	for i := range 3 {
		_, err := p.alpha.vol.WriteAt(make([]byte, 4096<<i), 0)
		require.NoError(f, err)
	}
	p.stop(f)
	return recs["alpha"], recs["beta"]
}

// FuzzPeer feeds a node whatever a peer may send: it must not panic, and must end in
// order.
func FuzzPeer(f *testing.F) {
	for _, version := range []int{0, 86} {
		for _, fresh := range []bool{false, true} {
			alpha, beta := record(f, version, fresh)
			f.Add(alpha.data.bytes(), alpha.meta.bytes(), true)
			f.Add(beta.data.bytes(), beta.meta.bytes(), false)
		}
	}
	f.Add([]byte{}, []byte{}, false)
	f.Fuzz(func(t *testing.T, data, meta []byte, primary bool) {
		disk := blockdev.NewMemory(2 << 20)
		require.NoError(t, CreateMetadata(Disk{Device: disk}, metadata.CreateOptions{}))
		now := make(chan struct{})
		close(now)
		d := newScriptConn(data, now)
		m := newScriptConn(meta, d.ended)
		tr := &scriptTransport{pair: make(chan *transport.Pair, 1)}
		tr.pair <- &transport.Pair{Data: d, Meta: m, Resolver: len(data)%2 == 0}
		res, err := Open(t.Context(), Config{Name: "r0", Volumes: []VolumeConfig{{Disk: disk}}, Peers: []PeerConfig{{Name: "peer", Transport: tr}}})
		require.NoError(t, err)
		if primary {
			require.NoError(t, res.Promote(t.Context(), Force()))
		}
		require.NoError(t, res.Connect(t.Context()))
		<-d.closed
		<-m.closed
		require.NoError(t, res.Status().Failed)
		require.NoError(t, res.Close())
	})
}

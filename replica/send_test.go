// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/stretchr/testify/require"
)

// gatedConn counts writes, and holds them while its gate is shut.
type gatedConn struct {
	net.Conn
	mu     sync.Mutex
	gate   chan struct{} // nil: open
	writes int
}

func (c *gatedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	gate := c.gate
	c.writes++
	c.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return c.Conn.Write(p)
}

func (c *gatedConn) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

func (c *gatedConn) shut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gate, c.writes = make(chan struct{}), 0
}

func (c *gatedConn) open() (writes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.gate)
	c.gate = nil
	return c.writes
}

// gatedTransport gates the data stream.
type gatedTransport struct {
	transport.Transport
	data *gatedConn
}

func (g *gatedTransport) Connect(ctx context.Context) (*transport.Pair, error) {
	p, err := g.Transport.Connect(ctx)
	if err == nil {
		g.data = &gatedConn{Conn: p.Data}
		p.Data = g.data
	}
	return p, err
}

// One goroutine at a time writes on a stream, and what is submitted meanwhile
// leaves together.
func TestSendersCombine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gated *gatedTransport
		p := newPair(t, pairOptions{config: func(name string, cfg *Config) {
			if name == "alpha" {
				gated = &gatedTransport{Transport: cfg.Peers[0].Transport}
				cfg.Peers[0].Transport = gated
			}
		}})
		p.start(t)
		_, err := p.alpha.vol.WriteAt(make([]byte, 4096), 0) // the extent is hot now
		require.NoError(t, err)
		synctest.Wait()

		gated.data.shut()
		var wg sync.WaitGroup
		const n = 31
		for i := range n + 1 {
			wg.Go(func() {
				_, err := p.alpha.vol.WriteAt(randomBytes(4096, uint64(i)), int64(i)*4096)
				require.NoError(t, err)
			})
		}
		synctest.Wait()
		p.alpha.res.mu.Lock()
		pending := p.alpha.res.core.OutPending(0, 0)
		p.alpha.res.mu.Unlock()
		require.Equal(t, 1, gated.data.open(), "one sender, who is held")
		wg.Wait()
		synctest.Wait()
		gated.data.mu.Lock()
		writes := gated.data.writes
		gated.data.mu.Unlock()
		const packet = 16 + 24 + 4096
		require.Equal(t, n*packet, pending, "all others waited")
		const each = joinBytes / packet // in one Write
		most := 1 + (n+each-1)/each + 1 // the held one, the rest in one run, the barrier
		require.LessOrEqual(t, writes, most)
		p.stop(t)
		p.requireSame(t)
	})
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"sync"

	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// minBufferBytes is the least that a bound on memory may be: the largest packet
// must fit, however small max-buffers is.
const minBufferBytes = 2 * core.MaxIOBytes

// buffers lends bounded, aligned memory for payloads. It is the core's Allocator.
type buffers struct {
	pool  *blockdev.Pool
	spare sync.Pool // of *payloadBuffer, without memory
}

// payloadBuffer is a core.Buffer that knows where it came from.
type payloadBuffer struct {
	core.Buffer
	owner     *buffers
	forgotten bool // a device that does not answer has it
}

func newBuffers(maxBytes int64) *buffers {
	b := &buffers{pool: blockdev.NewPool(max(maxBytes, minBufferBytes))}
	b.spare.New = func() any {
		p := &payloadBuffer{owner: b}
		p.Free, p.Forget = p.release, p.forget
		return p
	}
	return b
}

// Get implements core.Allocator: nil when the bound is reached.
func (b *buffers) Get(n int) *core.Buffer { return b.wrap(b.pool.TryGet(n)) }

// wait is Get that waits for memory.
func (b *buffers) wait(ctx context.Context, n int) (*core.Buffer, error) {
	data, err := b.pool.Get(ctx, n)
	if err != nil {
		return nil, err
	}
	return b.wrap(data), nil
}

func (b *buffers) wrap(data []byte) *core.Buffer {
	if data == nil {
		return nil
	}
	p := b.spare.Get().(*payloadBuffer)
	p.Data = data
	return &p.Buffer
}

// release is the buffer's Free.
func (p *payloadBuffer) release(*core.Buffer) {
	data := p.Data
	p.Data = nil
	if p.forgotten {
		return // the memory is not the pool's any more
	}
	p.owner.pool.Put(data[:cap(data)])
	p.owner.spare.Put(p)
}

// forget is the buffer's Forget.
func (p *payloadBuffer) forget(*core.Buffer) {
	p.forgotten = true
	p.owner.pool.Lose(p.Data)
}

// close lets go of the memory that nobody uses.
func (b *buffers) close() { b.pool.Close() }

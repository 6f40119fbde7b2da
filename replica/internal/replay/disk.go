// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"errors"
	"fmt"
	"io"
)

const pageBytes = 4096

var errInjected = errors.New("replay: injected disk error")

// ErrBounds is an operation that does not lie inside its disk.
var ErrBounds = errors.New("replay: an operation outside of the disk")

// memory is a sparse disk.
type memory struct {
	size  int64
	pages map[int64]*[pageBytes]byte
}

func newMemory(size int64, c Content) (*memory, error) {
	m := &memory{size: size, pages: map[int64]*[pageBytes]byte{}}
	return m, c.each(func(off int64, data []byte, _ int64) error {
		if data == nil {
			return nil
		}
		_, err := m.WriteAt(data, off)
		return err
	})
}

func (m *memory) check(off, n int64) error {
	if off < 0 || n < 0 || n > m.size-off {
		return fmt.Errorf("%w: %d bytes at %d, its size is %d", ErrBounds, n, off, m.size)
	}
	return nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= m.size || off < 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), m.size-off))
	for done := 0; done < n; {
		at := off + int64(done)
		part := p[done:min(n, done+int(pageBytes-at%pageBytes))]
		if page := m.pages[at/pageBytes]; page != nil {
			copy(part, page[at%pageBytes:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if err := m.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		page := m.pages[at/pageBytes]
		if page == nil {
			page = new([pageBytes]byte)
			m.pages[at/pageBytes] = page
		}
		done += copy(page[at%pageBytes:], p[done:])
	}
	return len(p), nil
}

// zero makes a range read as zeroes.
func (m *memory) zero(off, n int64) error {
	if err := m.check(off, n); err != nil {
		return err
	}
	for end := off + n; off < end; {
		step := min(end-off, pageBytes-off%pageBytes)
		if step == pageBytes {
			delete(m.pages, off/pageBytes)
		} else if page := m.pages[off/pageBytes]; page != nil {
			clear(page[off%pageBytes:][:step])
		}
		off += step
	}
	return nil
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// job is a request under way.
type job struct {
	request
	buf *buffer // of a read or a write that is done
	err error   // what was found wrong with it before
}

// allowedFlags are the command flags that make sense with a command.
func allowedFlags(command, tx uint16) uint16 {
	switch command {
	case cmdRead:
		if tx&txSendDF != 0 {
			return cmdFlagFUA | cmdFlagDF
		}
		return cmdFlagFUA
	case cmdWriteZeroes:
		if tx&txSendFastZeroes != 0 {
			return cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero
		}
		return cmdFlagFUA | cmdFlagNoHole
	case cmdBlockStatus:
		return cmdFlagFUA | cmdFlagReqOne
	}
	return cmdFlagFUA
}

// check says what is wrong with a request: an Errno, wrapped with an explanation.
func (c *conn) check(r *request) error {
	switch r.command {
	case cmdRead, cmdWrite, cmdFlush, cmdTrim, cmdWriteZeroes, cmdBlockStatus:
	default:
		return fmt.Errorf("%w: command %d is not known here", EINVAL, r.command)
	}
	if bad := r.flags &^ allowedFlags(r.command, c.txFlags); bad != 0 {
		return fmt.Errorf("%w: command %d does not take the flags %#x", EINVAL, r.command, bad)
	}
	if r.command == cmdFlush {
		if r.offset != 0 || r.length != 0 {
			return fmt.Errorf("%w: a flush has no range", EINVAL)
		}
		return nil
	}
	return errors.Join(c.checkAbility(r), c.checkRange(r))
}

// checkAbility refuses what was not offered to the client.
func (c *conn) checkAbility(r *request) error {
	if c.export.ReadOnly && (r.command == cmdWrite || r.command == cmdTrim || r.command == cmdWriteZeroes) {
		return fmt.Errorf("%w: the export is read-only", EPERM)
	}
	switch {
	case r.command == cmdTrim && c.txFlags&txSendTrim == 0:
		return fmt.Errorf("%w: the export cannot trim", EINVAL)
	case r.command == cmdWriteZeroes && c.txFlags&txSendZeroes == 0:
		return fmt.Errorf("%w: the export cannot write zeroes", EINVAL)
	case r.command == cmdBlockStatus && !c.allocation:
		return fmt.Errorf("%w: no metadata context was selected", EINVAL)
	}
	return nil
}

func (c *conn) checkRange(r *request) error {
	size, n := uint64(max(c.export.Backend.Size(), 0)), uint64(r.length)
	if n == 0 {
		return fmt.Errorf("%w: the range is empty", EINVAL)
	}
	if n > size || r.offset > size-n {
		if r.command == cmdWrite || r.command == cmdWriteZeroes {
			return fmt.Errorf("%w: %d bytes at %d: the export has %d bytes", ENOSPC, n, r.offset, size)
		}
		return fmt.Errorf("%w: %d bytes at %d: the export has %d bytes", EINVAL, n, r.offset, size)
	}
	if (r.offset|n)&uint64(c.export.MinBlock-1) != 0 {
		return fmt.Errorf("%w: %d bytes at %d: not a multiple of %d", EINVAL, n, r.offset, c.export.MinBlock)
	}
	if r.command == cmdRead && n > maxBlock {
		return fmt.Errorf("%w: a read of %d bytes, %d is the most", EOVERFLOW, n, maxBlock)
	}
	return nil
}

// perform does a request and answers it.
func (c *conn) perform(j *job) {
	if j.err != nil {
		c.fail(j, j.err)
		return
	}
	b, off, n := c.export.Backend, int64(j.offset), int64(j.length)
	var err error
	switch j.command {
	case cmdRead:
		if err = b.ReadAt(c.ctx, j.buf.data, off); err == nil {
			c.sendData(j)
			return
		}
	case cmdWrite:
		err = b.WriteAt(c.ctx, j.buf.data, off, j.flags&cmdFlagFUA != 0)
	case cmdFlush:
		err = b.Flush(c.ctx)
	case cmdTrim:
		err = c.durable(j, b.(Trimmer).Trim(c.ctx, off, n))
	case cmdWriteZeroes:
		how := ZeroFlags{NoHole: j.flags&cmdFlagNoHole != 0, Fast: j.flags&cmdFlagFastZero != 0}
		err = c.durable(j, b.(ZeroWriter).WriteZeroes(c.ctx, off, n, how))
	case cmdBlockStatus:
		var list []byte
		if list, err = c.blockStatus(off, n, j.flags&cmdFlagReqOne != 0); err == nil {
			c.send(append(appendChunk(nil, j.cookie, chunkBlockStatus, len(list)), list...))
			return
		}
	}
	if err != nil {
		c.fail(j, err)
		return
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.scratch = appendSimple(c.scratch[:0], j.cookie, 0)
	c.write(c.scratch)
}

// durable flushes after a trim or a write of zeroes that is to be durable.
func (c *conn) durable(j *job, err error) error {
	if err == nil && j.flags&cmdFlagFUA != 0 {
		err = c.export.Backend.Flush(c.ctx)
	}
	return err
}

// sendData answers a read, with the header in front of the data.
func (c *conn) sendData(j *job) {
	buf := j.buf
	end := headroom + len(buf.data)
	if !c.structured {
		appendSimple(buf.all[:headroom-simpleReplySize], j.cookie, 0)
		c.send(buf.all[headroom-simpleReplySize : end])
		return
	}
	h := appendChunk(buf.all[:headroom-chunkHeaderSize-8], j.cookie, chunkOffsetData, 8+len(buf.data))
	binary.BigEndian.AppendUint64(h, j.offset)
	c.send(buf.all[headroom-chunkHeaderSize-8 : end])
}

// fail answers with an error, and its explanation where the client can take that.
func (c *conn) fail(j *job, err error) {
	errno := errnoOf(err)
	c.log.Debug("nbd: request failed", "command", j.command, "offset", j.offset, "length", j.length, "err", err)
	if !c.structured {
		c.send(appendSimple(nil, j.cookie, errno))
		return
	}
	message := err.Error()
	message = message[:min(len(message), maxString)]
	b := appendChunk(nil, j.cookie, chunkError, 4+2+len(message))
	b = binary.BigEndian.AppendUint32(b, uint32(errno))
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	c.send(append(b, message...))
}

// blockStatus returns the extents from off on as BLOCK_STATUS does, neighbours of one
// kind as one.
func (c *conn) blockStatus(off, n int64, one bool) ([]byte, error) {
	extents := []Extent{{Length: n}}
	if l, ok := c.export.Backend.(ExtentLister); ok {
		var err error
		if extents, err = l.Extents(c.ctx, off, n, maxExtents); err != nil {
			return nil, err
		}
	}
	b := binary.BigEndian.AppendUint32(nil, metaAllocationID)
	var last Extent
	flush := func() {
		if last.Length > 0 {
			b = binary.BigEndian.AppendUint32(b, uint32(last.Length))
			b = binary.BigEndian.AppendUint32(b, extentFlags(last))
		}
	}
	for i, e := range extents {
		if e.Length <= 0 || i >= maxExtents {
			return nil, fmt.Errorf("%w: the backend's list of extents cannot be", EIO)
		}
		if n == 0 {
			break
		}
		e.Length = min(e.Length, n, math.MaxUint32)
		n -= e.Length
		if last.Length > 0 && last.Hole == e.Hole && last.Zero == e.Zero {
			last.Length += e.Length // at most the request's length
			continue
		}
		if last.Length > 0 && one {
			break
		}
		flush()
		last = e
	}
	if last.Length == 0 {
		return nil, fmt.Errorf("%w: the backend has no extents", EIO)
	}
	flush()
	return b, nil
}

// extentFlags returns NBD_STATE_HOLE and NBD_STATE_ZERO.
func extentFlags(e Extent) (flags uint32) {
	if e.Hole {
		flags |= 1 << 0
	}
	if e.Zero {
		flags |= 1 << 1
	}
	return flags
}

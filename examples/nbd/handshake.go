// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// negotiated is what client and server have agreed on.
type negotiated struct {
	noZeroes   bool // no padding after EXPORT_NAME
	secure     bool // TLS
	structured bool
	metaExport string // of SET_META_CONTEXT
	metaSet    bool   // it selected base:allocation
	allocation bool   // and the client entered that export
	txFlags    uint16
}

// step is what follows an option.
type step int

const (
	nextOption step = iota
	enter           // the transmission phase
	leave
)

// handshake agrees on everything, and reports whether the client has entered an
// export, which it then is a user of.
func (c *conn) handshake() (entered bool, err error) {
	c.handshakeEnd = time.Now().Add(c.s.cfg.HandshakeTimeout)
	c.deadline(c.handshakeEnd)
	hello := binary.BigEndian.AppendUint64(nil, magicInit)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	if _, err := c.nc.Write(hello); err != nil {
		return false, err
	}
	var b [4]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return false, err
	}
	flags := binary.BigEndian.Uint32(b[:])
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return false, fmt.Errorf("%w: unknown client flags %#x", ErrProtocol, flags)
	}
	c.noZeroes = flags&flagNoZeroes != 0
	for range maxOptions {
		opt, data, err := c.readOption()
		if err != nil {
			return false, err
		}
		if flags&flagFixedNewstyle == 0 && opt != optExportName {
			return false, fmt.Errorf("%w: option %d of a client that does not know fixed newstyle", ErrProtocol, opt)
		}
		next, err := c.option(opt, data)
		if err != nil || next != nextOption {
			return next == enter, err
		}
	}
	return false, fmt.Errorf("%w: more than %d options", ErrProtocol, maxOptions)
}

// readOption reads an option. One that is too large ends the connection.
func (c *conn) readOption() (opt uint32, data []byte, err error) {
	var h [optionHeaderSize]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return 0, nil, err
	}
	if binary.BigEndian.Uint64(h[:]) != magicOption {
		return 0, nil, fmt.Errorf("%w: an option does not begin with its magic number", ErrProtocol)
	}
	opt = binary.BigEndian.Uint32(h[8:])
	n := binary.BigEndian.Uint32(h[12:])
	if n > maxOption {
		return 0, nil, errors.Join(
			fmt.Errorf("%w: option %d of %d bytes, %d is the most", ErrProtocol, opt, n, maxOption),
			c.reply(opt, repErrTooBig, []byte("option is too large")))
	}
	data = make([]byte, n)
	_, err = io.ReadFull(c.r, data)
	return opt, data, err
}

// reply answers an option, or part of it.
func (c *conn) reply(opt, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicReply)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := c.nc.Write(append(b, data...))
	return err
}

// refuse answers an option with an error and what a person can make of it.
func (c *conn) refuse(opt, kind uint32, message string) (step, error) {
	return nextOption, c.reply(opt, kind, []byte(message[:min(len(message), maxString)]))
}

// option answers one option.
func (c *conn) option(opt uint32, data []byte) (step, error) {
	if !c.allowed(opt) {
		if opt == optExportName {
			return leave, fmt.Errorf("%w: EXPORT_NAME without TLS", ErrProtocol)
		}
		return c.refuse(opt, repErrTLSReqd, "this server requires TLS")
	}
	switch opt {
	case optExportName:
		return c.exportName(data)
	case optAbort:
		return leave, c.reply(opt, repAck, nil)
	case optList:
		return c.list(data)
	case optStartTLS:
		return c.startTLS(data)
	case optInfo, optGo:
		return c.infoOrGo(opt, data)
	case optStructuredReply:
		if len(data) != 0 {
			return c.refuse(opt, repErrInvalid, "STRUCTURED_REPLY has no data")
		}
		c.structured = true
		return nextOption, c.reply(opt, repAck, nil)
	case optListMeta, optSetMeta:
		return c.metaContext(opt, data)
	}
	return c.refuse(opt, repErrUnsup, fmt.Sprintf("option %d is not supported", opt))
}

// allowed reports whether an option may come without TLS.
func (c *conn) allowed(opt uint32) bool {
	return c.secure || c.s.cfg.TLS == nil || c.s.cfg.AllowPlain || opt == optAbort || opt == optStartTLS
}

// list names all exports.
func (c *conn) list(data []byte) (step, error) {
	if len(data) != 0 {
		return c.refuse(optList, repErrInvalid, "LIST has no data")
	}
	for _, name := range c.s.Exports() {
		e := c.s.lookup(name, nil)
		if e == nil {
			continue // gone meanwhile
		}
		b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
		b = append(append(b, name...), e.Description...)
		if err := c.reply(optList, repServer, b); err != nil {
			return leave, err
		}
	}
	return nextOption, c.reply(optList, repAck, nil)
}

// startTLS goes on over TLS, and forgets what was agreed on in plain text.
func (c *conn) startTLS(data []byte) (step, error) {
	switch {
	case len(data) != 0:
		return c.refuse(optStartTLS, repErrInvalid, "STARTTLS has no data")
	case c.secure:
		return c.refuse(optStartTLS, repErrInvalid, "this is TLS already")
	case c.s.cfg.TLS == nil:
		return c.refuse(optStartTLS, repErrPolicy, "this server has no TLS")
	case c.r.Buffered() > 0:
		// Somebody on the way may have put it there: it must not count as secure.
		return leave, fmt.Errorf("%w: plain text behind STARTTLS", ErrProtocol)
	}
	if err := c.reply(optStartTLS, repAck, nil); err != nil {
		return leave, err
	}
	secure := tls.Server(c.raw, c.s.cfg.TLS)
	if err := secure.HandshakeContext(c.soft); err != nil {
		return leave, fmt.Errorf("nbd: TLS: %w", err)
	}
	c.nc, c.r = secure, bufio.NewReaderSize(secure, 32<<10)
	c.negotiated = negotiated{noZeroes: c.noZeroes, secure: true}
	return nextOption, nil
}

// exportName is the old GO, which cannot be refused but by hanging up.
func (c *conn) exportName(data []byte) (step, error) {
	if err := c.enter(string(data)); err != nil {
		return leave, err
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(c.export.Backend.Size()))
	b = binary.BigEndian.AppendUint16(b, c.txFlags)
	if !c.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	_, err := c.nc.Write(b)
	return enter, err
}

// infoOrGo describes an export, and enters it.
func (c *conn) infoOrGo(opt uint32, data []byte) (step, error) {
	name, wanted, ok := decodeInfo(data)
	if !ok {
		return c.refuse(opt, repErrInvalid, "the option's lengths do not add up")
	}
	e := c.s.lookup(name, nil)
	var err error
	switch {
	case e == nil:
		err = fmt.Errorf("%w %q", ErrUnknownExport, name)
	case opt == optGo:
		err = c.enter(name)
	case e.Backend.Size() <= 0:
		err = errNoSize
	}
	if err != nil {
		c.log.Info("nbd: client refused", "export", name, "err", err)
		return c.refuse(opt, refusal(err), err.Error())
	}
	next := nextOption
	if opt == optGo {
		next, e = enter, c.export
	}
	for _, b := range describe(e, e.flags(c.structured), wanted) {
		if err := c.reply(opt, repInfo, b); err != nil {
			return next, err
		}
	}
	return next, c.reply(opt, repAck, nil)
}

var errNoSize = errors.New("the export's size is not known yet")

// refusal returns the reply that fits an error best.
func refusal(err error) uint32 {
	switch {
	case errors.Is(err, ErrUnknownExport):
		return repErrUnknown
	case errors.Is(err, ESHUTDOWN):
		return repErrShutdown
	}
	return repErrPolicy
}

// describe returns the NBD_REP_INFO of an export.
func describe(e *export, tx uint16, wanted []uint16) [][]byte {
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Backend.Size()))
	list := [][]byte{binary.BigEndian.AppendUint16(b, tx)}
	if slices.Contains(wanted, infoName) {
		list = append(list, append(binary.BigEndian.AppendUint16(nil, infoName), e.Name...))
	}
	if slices.Contains(wanted, infoDescription) && e.Description != "" {
		list = append(list, append(binary.BigEndian.AppendUint16(nil, infoDescription), e.Description...))
	}
	b = binary.BigEndian.AppendUint16(nil, infoBlockSize)
	b = binary.BigEndian.AppendUint32(b, uint32(e.MinBlock))
	b = binary.BigEndian.AppendUint32(b, uint32(e.PreferredBlock))
	return append(list, binary.BigEndian.AppendUint32(b, maxBlock))
}

// enter makes the client a user of an export.
func (c *conn) enter(name string) error {
	e := c.s.lookup(name, c)
	if e == nil {
		return fmt.Errorf("%w %q", ErrUnknownExport, name)
	}
	c.deadline(time.Time{}) // Open takes its time, and it is not the client's
	begin := time.Now()
	err := e.acquire(c.soft)
	if err == nil && e.Backend.Size() <= 0 {
		err = errors.Join(errNoSize, e.release())
	}
	c.handshakeEnd = c.handshakeEnd.Add(time.Since(begin))
	c.deadline(c.handshakeEnd)
	if err != nil {
		c.s.leave(c)
		return err
	}
	c.txFlags = e.flags(c.structured)
	c.allocation = c.metaSet && c.metaExport == name
	return nil
}

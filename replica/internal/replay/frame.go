// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"

	"github.com/go-blockmirror/blockmirror/protocol"
)

// Framer cuts a stream of bytes into packets.
type Framer struct {
	buf  []byte
	from int // buf[from:] is not complete yet
}

// Feed adds bytes, and calls emit with every packet that they complete: all of it, and
// its header; the bytes are good until emit returns. version tells the form of headers: 0 before it is agreed. A packet of the
// first exchange switches the form by itself.
func (f *Framer) Feed(b []byte, version protocol.Version, emit func(protocol.Header, []byte) error) error {
	f.buf = append(f.buf[:copy(f.buf, f.buf[f.from:])], b...)
	f.from = 0
	for {
		v, rest := version, f.buf[f.from:]
		if len(rest) >= 4 {
			v = versionOf(rest)
		}
		size := protocol.HeaderSize(v)
		if len(rest) < size {
			return nil
		}
		h, err := protocol.DecodeHeader(rest[:size], v)
		if err != nil {
			return fmt.Errorf("replay: the stream cannot be cut into packets: %w", err)
		}
		n := size + int(h.Length)
		if len(rest) < n {
			return nil
		}
		if err := emit(h, rest[:n:n]); err != nil {
			return err
		}
		f.from += n
	}
}

// Split divides a packet into what is kept as it is, and the data behind, whose length
// is a multiple of 512. A short packet, and a bitmap, have no data.
func Split(packet []byte) (front, data []byte) {
	v := versionOf(packet)
	size := protocol.HeaderSize(v)
	h, err := protocol.DecodeHeader(packet[:size], v)
	body := packet[size:]
	if err == nil {
		switch h.Command {
		case protocol.CmdData, protocol.CmdDataReply, protocol.CmdRSDataReply:
			n := len(body) / sectorBytes * sectorBytes
			return body[:len(body)-n], body[len(body)-n:]
		}
	}
	return body, nil
}

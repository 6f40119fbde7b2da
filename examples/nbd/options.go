// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// decodeInfo reads the data of INFO and GO: an export's name, and what the client
// wants to know of it.
func decodeInfo(b []byte) (name string, wanted []uint16, ok bool) {
	name, b, ok = decodeString(b)
	if !ok || len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if len(b) != 2*n {
		return "", nil, false
	}
	for ; len(b) > 0; b = b[2:] {
		wanted = append(wanted, binary.BigEndian.Uint16(b))
	}
	return name, wanted, true
}

// decodeMeta reads the data of LIST_META_CONTEXT and SET_META_CONTEXT: an export's
// name, and queries.
func decodeMeta(b []byte) (name string, queries []string, ok bool) {
	name, b, ok = decodeString(b)
	if !ok || len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(n)*4 > uint64(len(b)) {
		return "", nil, false
	}
	for range n {
		var q string
		if q, b, ok = decodeString(b); !ok {
			return "", nil, false
		}
		queries = append(queries, q)
	}
	return name, queries, len(b) == 0
}

// decodeString reads a length and as many bytes, and returns what follows.
func decodeString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if n > maxString || int(n) > len(b) {
		return "", nil, false
	}
	return string(b[:n]), b[n:], true
}

// metaContext lists or selects metadata contexts.
func (c *conn) metaContext(opt uint32, data []byte) (step, error) {
	name, queries, ok := decodeMeta(data)
	if opt == optSetMeta {
		c.metaSet = false // whatever comes of it
	}
	switch {
	case !ok:
		return c.refuse(opt, repErrInvalid, "the option's lengths do not add up")
	case !c.structured:
		return c.refuse(opt, repErrInvalid, "metadata contexts need STRUCTURED_REPLY first")
	case c.s.lookup(name, nil) == nil:
		return c.refuse(opt, repErrUnknown, fmt.Sprintf("unknown export %q", name))
	}
	all := opt == optListMeta && (len(queries) == 0 || slices.ContainsFunc(queries, func(q string) bool {
		return strings.HasSuffix(q, ":") && strings.HasPrefix(metaAllocation, q)
	}))
	if all || slices.Contains(queries, metaAllocation) {
		id := uint32(0)
		if opt == optSetMeta {
			id, c.metaSet, c.metaExport = metaAllocationID, true, name
		}
		b := append(binary.BigEndian.AppendUint32(nil, id), metaAllocation...)
		if err := c.reply(opt, repMetaContext, b); err != nil {
			return leave, err
		}
	}
	return nextOption, c.reply(opt, repAck, nil)
}

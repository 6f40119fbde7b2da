// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd

import "encoding/binary"

// The numbers of the protocol's document, with its names in the comments. They are on
// the wire: do not change them.
const (
	magicInit    = 0x4e42444d41474943 // NBDMAGIC
	magicOption  = 0x49484156454f5054 // IHAVEOPT
	magicReply   = 0x0003e889045565a9 // reply to an option
	magicRequest = 0x25609513
	magicSimple  = 0x67446698
	magicChunk   = 0x668e33ef // structured reply

	// Handshake flags of the server and, the same bits, of the client.
	flagFixedNewstyle = 1 << 0 // NBD_FLAG_FIXED_NEWSTYLE, NBD_FLAG_C_FIXED_NEWSTYLE
	flagNoZeroes      = 1 << 1 // NBD_FLAG_NO_ZEROES, NBD_FLAG_C_NO_ZEROES
)

// Options, NBD_OPT_*.
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMeta        = 9
	optSetMeta         = 10
)

// Replies to options, NBD_REP_*.
const (
	repAck         uint32 = 1
	repServer      uint32 = 2
	repInfo        uint32 = 3
	repMetaContext uint32 = 4

	repErrUnsup    uint32 = 1<<31 + 1
	repErrPolicy   uint32 = 1<<31 + 2
	repErrInvalid  uint32 = 1<<31 + 3
	repErrTLSReqd  uint32 = 1<<31 + 5
	repErrUnknown  uint32 = 1<<31 + 6
	repErrShutdown uint32 = 1<<31 + 7
	repErrTooBig   uint32 = 1<<31 + 9
)

// Kinds of NBD_REP_INFO, NBD_INFO_*.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Transmission flags, NBD_FLAG_*.
const (
	txHasFlags       = 1 << 0
	txReadOnly       = 1 << 1
	txSendFlush      = 1 << 2
	txSendFUA        = 1 << 3
	txSendTrim       = 1 << 5
	txSendZeroes     = 1 << 6
	txSendDF         = 1 << 7
	txCanMultiConn   = 1 << 8
	txSendFastZeroes = 1 << 11
)

// Commands, NBD_CMD_*.
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
)

// Command flags, NBD_CMD_FLAG_*.
const (
	cmdFlagFUA      = 1 << 0
	cmdFlagNoHole   = 1 << 1
	cmdFlagDF       = 1 << 2
	cmdFlagReqOne   = 1 << 3
	cmdFlagFastZero = 1 << 4
)

// Chunks of structured replies, NBD_REPLY_TYPE_*, and their flag.
const (
	chunkOffsetData  = 1
	chunkBlockStatus = 5
	chunkError       = 1<<15 + 1
	chunkFlagDone    = 1 << 0
)

// metaAllocation is the one metadata context there is, and its number.
const (
	metaAllocation   = "base:allocation"
	metaAllocationID = 1
)

// Sizes on the wire, and the limits we set ourselves.
const (
	optionHeaderSize  = 16
	requestHeaderSize = 28
	simpleReplySize   = 16
	chunkHeaderSize   = 20

	maxString  = 4096    // of a name, a description, a message
	maxOption  = 8 << 10 // of an option's data: a name and a few queries
	maxOptions = 4096    // in one handshake
	maxExtents = 1024    // in one reply to BLOCK_STATUS
)

// request is the header of a request.
type request struct {
	flags, command uint16
	cookie         uint64
	offset         uint64
	length         uint32
}

// decodeRequest reads a header of requestHeaderSize bytes, and reports whether it is one.
func decodeRequest(b []byte) (request, bool) {
	if len(b) < requestHeaderSize || binary.BigEndian.Uint32(b) != magicRequest {
		return request{}, false
	}
	return request{
		flags: binary.BigEndian.Uint16(b[4:]), command: binary.BigEndian.Uint16(b[6:]),
		cookie: binary.BigEndian.Uint64(b[8:]), offset: binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}, true
}

// appendSimple appends a simple reply without data.
func appendSimple(b []byte, cookie uint64, errno Errno) []byte {
	b = binary.BigEndian.AppendUint32(b, magicSimple)
	b = binary.BigEndian.AppendUint32(b, uint32(errno))
	return binary.BigEndian.AppendUint64(b, cookie)
}

// appendChunk appends the header of the last chunk of a structured reply, which n
// bytes follow.
func appendChunk(b []byte, cookie uint64, kind uint16, n int) []byte {
	b = binary.BigEndian.AppendUint32(b, magicChunk)
	b = binary.BigEndian.AppendUint16(b, chunkFlagDone)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

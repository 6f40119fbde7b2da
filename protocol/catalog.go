// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

// This file is the one table of what exists on the wire: which stream a packet
// belongs to, from which version and with which features it may be used, how
// long it may be and which type holds its body. Everything that decides by
// command asks this table.

// scope says whether the volume field of a packet's header means something.
type scope uint8

const (
	connection scope = iota
	volume
)

// streamSet is a set of streams, one bit each.
type streamSet uint8

const (
	onData streamSet = 1 << DataStream
	onMeta streamSet = 1 << MetaStream
)

// bounds are the lengths a packet may have: body + digest + tail, where tail is a
// multiple of step in tailMin..tailMax.
type bounds struct {
	body             uint32 // fixed part
	digest           uint32 // integrity digest in front of the data
	tailMin, tailMax uint32
	step             uint32
	orBare           bool // the body alone is fine too
}

// row is what the table knows of one command.
type row struct {
	name    string
	streams streamSet
	scope   scope
	opening bool // sent before a version is agreed, and only then

	// The packet is used in versions since..until (0: no limit) and only if
	// the features needs were agreed. lenient: received, it is understood in
	// all versions. ignored: never sent, and dropped when received.
	since, until Version
	needs        Features
	lenient      bool
	ignored      bool

	bulk  bool                    // digest and data for the application follow the body
	size  bounds                  // lengths, if they are the same in every session
	vary  func(s *Session) bounds // lengths, if not
	fresh func() Packet           // a new zero value of the type that holds the body
	fail  error                   // wrapped beside ErrLength; nil for nearly all
}

// High command numbers have slots of their own behind the low ones.
const (
	slotInitialMeta = int(Cmd9x59) + 1 + iota
	slotInitialData
	slotConnectionFeatures
	slots
)

// lookup returns the row of c, or nil if there is no such packet.
func lookup(c Command) *row {
	i := int(c)
	switch c {
	case CmdInitialMeta:
		i = slotInitialMeta
	case CmdInitialData:
		i = slotInitialData
	case CmdConnectionFeatures:
		i = slotConnectionFeatures
	default:
		if c > Cmd9x59 {
			return nil
		}
	}
	if r := &catalog[i]; r.name != "" {
		return r
	}
	return nil
}

// catalog is the table. spec: wire 4 and 5. Do not change: wire format.
var catalog = [slots]row{
	// Data stream: writes, and answers to reads.
	CmdData:          {name: "P_DATA", streams: onData, scope: volume, bulk: true, vary: dataBounds, fresh: freshData},
	CmdDataReply:     {name: "P_DATA_REPLY", streams: onData, scope: volume, bulk: true, vary: replyBounds, fresh: freshData},
	CmdRSDataReply:   {name: "P_RS_DATA_REPLY", streams: onData, scope: volume, bulk: true, vary: replyBounds, fresh: freshData},
	CmdTrim:          {name: "P_TRIM", streams: onData, scope: volume, needs: FeatureTrim, size: bounds{body: 28}, fresh: freshData},
	CmdZeroes:        {name: "P_ZEROES", streams: onData, scope: volume, needs: FeatureWZeroes, size: bounds{body: 28}, fresh: freshData},
	CmdWSame:         {name: "P_WSAME", streams: onData, scope: volume, needs: FeatureWSame, bulk: true, vary: wsameBounds, fresh: freshData},
	CmdRSDeallocated: {name: "P_RS_DEALLOCATED", streams: onData, scope: volume, needs: FeatureThinResync, size: bounds{body: 16}, fresh: freshBlockDescription},
	CmdOutOfSync:     {name: "P_OUT_OF_SYNC", streams: onData, scope: volume, since: versionAhead, size: bounds{body: 16}, fresh: freshBlockDescription},
	CmdBarrier:       {name: "P_BARRIER", streams: onData, size: bounds{body: 8}, fresh: freshBarrier},
	CmdUnplugRemote:  {name: "P_UNPLUG_REMOTE", streams: onData, scope: volume, fresh: freshEmpty},

	// Data stream: requests for blocks.
	CmdDataRequest:   {name: "P_DATA_REQUEST", streams: onData, scope: volume, size: bounds{body: 24}, fresh: freshBlockRequest},
	CmdRSDataRequest: {name: "P_RS_DATA_REQUEST", streams: onData, scope: volume, size: bounds{body: 24}, fresh: freshBlockRequest},
	CmdRSThinReq:     {name: "P_RS_THIN_REQ", streams: onData, scope: volume, needs: FeatureThinResync, size: bounds{body: 24}, fresh: freshBlockRequest},
	CmdCsumRSRequest: {name: "P_CSUM_RS_REQUEST", streams: onData, scope: volume, since: versionSyncParam89, vary: digestBounds, fresh: freshBlockRequest},
	CmdOVRequest:     {name: "P_OV_REQUEST", streams: onData, scope: volume, since: versionVerify, size: bounds{body: 24}, fresh: freshBlockRequest},
	CmdOVReply:       {name: "P_OV_REPLY", streams: onData, scope: volume, since: versionVerify, vary: digestBounds, fresh: freshBlockRequest},

	// Data stream: authentication, parameters, state, bitmap.
	CmdAuthChallenge:    {name: "P_AUTH_CHALLENGE", streams: onData, size: bounds{tailMax: MaxChallengeBytes, step: 1}, fresh: freshAuthChallenge, fail: ErrChallenge},
	CmdAuthResponse:     {name: "P_AUTH_RESPONSE", streams: onData, size: bounds{tailMax: MaxDigestBytes, step: 1}, fresh: freshAuthResponse, fail: ErrResponseLength},
	CmdProtocol:         {name: "P_PROTOCOL", streams: onData, vary: protocolBounds, fresh: freshProtocol},
	CmdProtocolUpdate:   {name: "P_PROTOCOL_UPDATE", streams: onData, since: versionH100, vary: protocolBounds, fresh: freshProtocol},
	CmdSyncParam:        {name: "P_SYNC_PARAM", streams: onData, scope: volume, until: versionSyncParam89 - 1, lenient: true, vary: syncParamBounds, fresh: freshSyncParam},
	CmdSyncParam89:      {name: "P_SYNC_PARAM89", streams: onData, scope: volume, since: versionSyncParam89, vary: syncParamBounds, fresh: freshSyncParam},
	CmdSizes:            {name: "P_SIZES", streams: onData, scope: volume, vary: sizesBounds, fresh: freshSizes},
	CmdUUIDs:            {name: "P_UUIDS", streams: onData, scope: volume, size: bounds{body: 48}, fresh: freshUUIDs},
	CmdState:            {name: "P_STATE", streams: onData, scope: volume, size: bounds{body: 4}, fresh: freshState},
	CmdSyncUUID:         {name: "P_SYNC_UUID", streams: onData, scope: volume, size: bounds{body: 8}, fresh: freshSyncUUID},
	CmdStateChgReq:      {name: "P_STATE_CHG_REQ", streams: onData, scope: volume, size: bounds{body: 8}, fresh: freshStateRequest},
	CmdConnStChgReq:     {name: "P_CONN_ST_CHG_REQ", streams: onData, since: versionH100, size: bounds{body: 8}, fresh: freshStateRequest},
	CmdBitmap:           {name: "P_BITMAP", streams: onData, scope: volume, vary: bitmapBounds, fresh: freshBitmap},
	CmdCompressedBitmap: {name: "P_COMPRESSED_BITMAP", streams: onData, scope: volume, since: versionRLE, vary: compressedBounds, fresh: freshCompressedBitmap},

	// Either stream. Never sent here; read and ignored.
	CmdDelayProbe: {name: "P_DELAY_PROBE", streams: onData | onMeta, scope: volume, ignored: true, since: versionDelayProbe, size: bounds{body: 8}, fresh: freshDelayProbe},

	// Meta stream.
	CmdPing:           {name: "P_PING", streams: onMeta, fresh: freshEmpty},
	CmdPingAck:        {name: "P_PING_ACK", streams: onMeta, fresh: freshEmpty},
	CmdRecvAck:        {name: "P_RECV_ACK", streams: onMeta, scope: volume, size: bounds{body: 24}, fresh: freshBlockAck},
	CmdWriteAck:       {name: "P_WRITE_ACK", streams: onMeta, scope: volume, size: bounds{body: 24}, fresh: freshBlockAck},
	CmdRSWriteAck:     {name: "P_RS_WRITE_ACK", streams: onMeta, scope: volume, size: bounds{body: 24}, fresh: freshBlockAck},
	CmdSuperseded:     {name: "P_SUPERSEDED", streams: onMeta, scope: volume, size: bounds{body: 24}, fresh: freshBlockAck},
	CmdNegAck:         {name: "P_NEG_ACK", streams: onMeta, scope: volume, size: bounds{body: 24}, fresh: freshBlockAck},
	CmdNegDReply:      {name: "P_NEG_DREPLY", streams: onMeta, scope: volume, size: bounds{body: 24}, fresh: freshBlockAck},
	CmdNegRSDReply:    {name: "P_NEG_RS_DREPLY", streams: onMeta, scope: volume, size: bounds{body: 24}, fresh: freshBlockAck},
	CmdOVResult:       {name: "P_OV_RESULT", streams: onMeta, scope: volume, since: versionVerify, size: bounds{body: 24}, fresh: freshBlockAck},
	CmdRSIsInSync:     {name: "P_RS_IS_IN_SYNC", streams: onMeta, scope: volume, since: versionSyncParam89, size: bounds{body: 24}, fresh: freshBlockAck},
	CmdRSCancel:       {name: "P_RS_CANCEL", streams: onMeta, scope: volume, since: versionAhead, size: bounds{body: 24}, fresh: freshBlockAck},
	CmdRetryWrite:     {name: "P_RETRY_WRITE", streams: onMeta, scope: volume, since: versionH100, size: bounds{body: 24}, fresh: freshBlockAck},
	CmdBarrierAck:     {name: "P_BARRIER_ACK", streams: onMeta, size: bounds{body: 8}, fresh: freshBarrierAck},
	CmdStateChgReply:  {name: "P_STATE_CHG_REPLY", streams: onMeta, scope: volume, size: bounds{body: 4}, fresh: freshStateReply},
	CmdConnStChgReply: {name: "P_CONN_ST_CHG_REPLY", streams: onMeta, since: versionH100, size: bounds{body: 4}, fresh: freshStateReply},

	// DRBD 9, tolerated on data. spec: drbd9 6.2, 24.
	Cmd9x58: {name: "P_ENABLE_REPLICATION_NEXT", streams: onData, scope: volume, ignored: true, size: bounds{body: 4}, fresh: freshIgnored},
	Cmd9x59: {name: "P_ENABLE_REPLICATION", streams: onData, scope: volume, ignored: true, size: bounds{body: 4}, fresh: freshIgnored},

	// Before a version is agreed.
	slotInitialMeta:        {name: "P_INITIAL_META", streams: onMeta, opening: true, fresh: freshEmpty},
	slotInitialData:        {name: "P_INITIAL_DATA", streams: onData, opening: true, fresh: freshEmpty},
	slotConnectionFeatures: {name: "P_CONNECTION_FEATURES", streams: onData, opening: true, size: bounds{body: connectionFeaturesBytes}, fresh: freshConnectionFeatures, fail: ErrIncompatible},
}

func freshData() Packet               { return new(Data) }
func freshBlockRequest() Packet       { return new(BlockRequest) }
func freshBlockDescription() Packet   { return new(BlockDescription) }
func freshBlockAck() Packet           { return new(BlockAck) }
func freshProtocol() Packet           { return new(Protocol) }
func freshSyncParam() Packet          { return new(SyncParam) }
func freshStateRequest() Packet       { return new(StateRequest) }
func freshStateReply() Packet         { return new(StateReply) }
func freshEmpty() Packet              { return new(Empty) }
func freshIgnored() Packet            { return new(Ignored) }
func freshBarrier() Packet            { return new(Barrier) }
func freshAuthChallenge() Packet      { return new(AuthChallenge) }
func freshAuthResponse() Packet       { return new(AuthResponse) }
func freshSizes() Packet              { return new(Sizes) }
func freshUUIDs() Packet              { return new(UUIDs) }
func freshState() Packet              { return new(State) }
func freshSyncUUID() Packet           { return new(SyncUUID) }
func freshBitmap() Packet             { return new(Bitmap) }
func freshCompressedBitmap() Packet   { return new(CompressedBitmap) }
func freshDelayProbe() Packet         { return new(DelayProbe) }
func freshBarrierAck() Packet         { return new(BarrierAck) }
func freshConnectionFeatures() Packet { return new(ConnectionFeatures) }

// dataBounds: data is any number of sectors up to 1 MiB, in every version (spec:
// wire 9.3). A packet without data is a bare flush and carries no digest.
func dataBounds(s *Session) bounds {
	b := replyBounds(s)
	b.orBare = true
	return b
}

func replyBounds(s *Session) bounds {
	return bounds{body: 24, digest: s.digestBytes(), tailMin: SectorBytes, tailMax: MaxBlockBytes, step: SectorBytes}
}

// digestBounds: a request with the digest of some algorithm.
func digestBounds(*Session) bounds {
	return bounds{body: blockRequestBytes, tailMin: 1, tailMax: MaxDigestBytes, step: 1}
}

// wsameBounds: the data is one logical block of the peer's disk.
func wsameBounds(s *Session) bounds {
	return bounds{body: 28, digest: s.digestBytes(), tailMin: SectorBytes, tailMax: MaxBlockBytes, step: SectorBytes}
}

func protocolBounds(s *Session) bounds {
	if s.Version < versionIntegrity {
		return bounds{body: 24}
	}
	return bounds{body: 24, tailMin: 1, tailMax: algorithmBytes, step: 1}
}

func syncParamBounds(s *Session) bounds {
	switch {
	case s.Version >= versionH95:
		return bounds{body: 148}
	case s.Version >= versionSyncParam89:
		return bounds{body: 132}
	case s.Version >= versionVerify:
		return bounds{body: 4, tailMin: 1, tailMax: algorithmBytes, step: 1}
	}
	return bounds{body: 4}
}

func sizesBounds(s *Session) bounds {
	if s.Features.Has(FeatureWSame) {
		return bounds{body: 56}
	}
	return bounds{body: 32}
}

func bitmapBounds(s *Session) bounds {
	return bounds{tailMax: uint32(BitmapChunkBytes(s.Version)), step: 8}
}

func compressedBounds(s *Session) bounds {
	return bounds{body: 1, tailMin: 1, tailMax: uint32(MaxBitmapCodeBytes(s.Version)), step: 1}
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import "encoding/binary"

// SizesFlags of P_SIZES. spec: wire 4.5.
type SizesFlags uint16

// The flags, with DRBD's values.
const (
	// SizesForced: the size was forced by the administrator.
	SizesForced SizesFlags = 1
	// SizesNoResync: do not synchronise the new space.
	SizesNoResync SizesFlags = 2
)

// Sizes tells the peer how large a volume is and could be: P_SIZES. spec: wire 4.5.
type Sizes struct {
	// DiskSize is what the backing disk could offer, in sectors, without
	// metadata (d_size); 0 if diskless.
	DiskSize uint64
	// UserSize is the size set by the administrator, in sectors (u_size); 0
	// for none.
	UserSize uint64
	// CurrentSize is the size of the device in sectors (c_size); 0 asks the
	// peer for an answer.
	CurrentSize uint64
	// MaxBioBytes is the largest write the sender takes; a kernel does not
	// honour it from version 94 on. AppendTo lowers it to
	// MaxDataBytes of the agreed version.
	MaxBioBytes uint32
	QueueOrder  uint16 // always 0
	Flags       SizesFlags
	// Queue is on the wire only if FeatureWSame is agreed; zero otherwise.
	Queue QueueLimits
}

// QueueLimits are the properties of the sender's disk in the tail of P_SIZES. Sizes
// are in bytes.
type QueueLimits struct {
	PhysicalBlock   uint32
	LogicalBlock    uint32
	AlignmentOffset uint32
	MinIO           uint32
	OptimalIO       uint32
	Discard         bool // discard supported
	DiscardZeroes   bool // discarded blocks read as zeroes
	WriteSame       bool
}

const (
	sizesBytes      = 32
	sizesBytesQueue = 56
)

// AppendTo appends the body: 56 bytes if FeatureWSame is agreed, else 32.
func (p Sizes) AppendTo(dst []byte, s *Session) []byte {
	var b [sizesBytesQueue]byte
	binary.BigEndian.PutUint64(b[0:], p.DiskSize)
	binary.BigEndian.PutUint64(b[8:], p.UserSize)
	binary.BigEndian.PutUint64(b[16:], p.CurrentSize)
	binary.BigEndian.PutUint32(b[24:], min(p.MaxBioBytes, MaxDataBytes(s.Version)))
	binary.BigEndian.PutUint16(b[28:], p.QueueOrder)
	binary.BigEndian.PutUint16(b[30:], uint16(p.Flags))
	if !s.Features.Has(FeatureWSame) {
		return append(dst, b[:sizesBytes]...)
	}
	q := &p.Queue
	binary.BigEndian.PutUint32(b[32:], q.PhysicalBlock)
	binary.BigEndian.PutUint32(b[36:], q.LogicalBlock)
	binary.BigEndian.PutUint32(b[40:], q.AlignmentOffset)
	binary.BigEndian.PutUint32(b[44:], q.MinIO)
	binary.BigEndian.PutUint32(b[48:], q.OptimalIO)
	b[52] = byte(bitIf(q.Discard, 1))
	b[53] = byte(bitIf(q.DiscardZeroes, 1))
	b[54] = byte(bitIf(q.WriteSame, 1))
	return append(dst, b[:]...)
}

// Decode reads the body. Errors: ErrLength; ErrField for a size beyond 8 EiB.
func (p *Sizes) Decode(body []byte, s *Session) error {
	b := sizesBounds(s)
	if !b.allow(uint32(len(body))) {
		return lengthError(CmdSizes, len(body), int(b.body))
	}
	r := Sizes{
		DiskSize:    binary.BigEndian.Uint64(body),
		UserSize:    binary.BigEndian.Uint64(body[8:]),
		CurrentSize: binary.BigEndian.Uint64(body[16:]),
		MaxBioBytes: binary.BigEndian.Uint32(body[24:]),
		QueueOrder:  binary.BigEndian.Uint16(body[28:]),
		Flags:       SizesFlags(binary.BigEndian.Uint16(body[30:])),
	}
	for _, sectors := range [...]uint64{r.DiskSize, r.UserSize, r.CurrentSize} {
		if err := checkRange(CmdSizes, sectors, 0, 0, 0); err != nil {
			return err
		}
	}
	if b.body == sizesBytesQueue {
		r.Queue = QueueLimits{
			PhysicalBlock:   binary.BigEndian.Uint32(body[32:]),
			LogicalBlock:    binary.BigEndian.Uint32(body[36:]),
			AlignmentOffset: binary.BigEndian.Uint32(body[40:]),
			MinIO:           binary.BigEndian.Uint32(body[44:]),
			OptimalIO:       binary.BigEndian.Uint32(body[48:]),
			Discard:         body[52] != 0,
			DiscardZeroes:   body[53] != 0,
			WriteSame:       body[54] != 0,
		}
	}
	*p = r
	return nil
}

// UUIDFlags of P_UUIDS. spec: wire 4.6.
type UUIDFlags uint64

// The flags, with DRBD's values.
const (
	// UUIDDiscardMyData: discard-my-data is set on the sender.
	UUIDDiscardMyData UUIDFlags = 1
	// UUIDCrashedPrimary: the sender was a Primary that crashed.
	UUIDCrashedPrimary UUIDFlags = 2
	// UUIDInconsistent: the sender's disk, now Negotiating, will be
	// Inconsistent.
	UUIDInconsistent UUIDFlags = 4
	// UUIDSkipInitialSync: both disks are to be taken as UpToDate.
	UUIDSkipInitialSync UUIDFlags = 8
)

// UUIDs are the sender's generation identifiers of one volume: P_UUIDS. It is a
// value and may be compared with ==. spec: wire 4.6, behaviour 3.1.
type UUIDs struct {
	Current uint64
	// Bitmap is the generation the set bits refer to; 0 if in sync.
	Bitmap uint64
	// History holds the younger of the two former generations first.
	History [2]uint64
	// BitmapBits is the number of set bits in the sender's bitmap.
	BitmapBits uint64
	Flags      UUIDFlags
}

const uuidsBytes = 48

// AppendTo appends the body, 48 bytes.
func (p UUIDs) AppendTo(dst []byte, _ *Session) []byte {
	var b [uuidsBytes]byte
	binary.BigEndian.PutUint64(b[0:], p.Current)
	binary.BigEndian.PutUint64(b[8:], p.Bitmap)
	binary.BigEndian.PutUint64(b[16:], p.History[0])
	binary.BigEndian.PutUint64(b[24:], p.History[1])
	binary.BigEndian.PutUint64(b[32:], p.BitmapBits)
	binary.BigEndian.PutUint64(b[40:], uint64(p.Flags))
	return append(dst, b[:]...)
}

// Decode reads the body. Errors: ErrLength.
func (p *UUIDs) Decode(body []byte, _ *Session) error {
	if len(body) != uuidsBytes {
		return lengthError(CmdUUIDs, len(body), uuidsBytes)
	}
	*p = UUIDs{
		Current:    binary.BigEndian.Uint64(body),
		Bitmap:     binary.BigEndian.Uint64(body[8:]),
		History:    [2]uint64{binary.BigEndian.Uint64(body[16:]), binary.BigEndian.Uint64(body[24:])},
		BitmapBits: binary.BigEndian.Uint64(body[32:]),
		Flags:      UUIDFlags(binary.BigEndian.Uint64(body[40:])),
	}
	return nil
}

// SyncUUID starts a resync: P_SYNC_UUID from the SyncSource. The target makes it its
// current generation. spec: wire 4.15.
type SyncUUID struct {
	UUID uint64
}

// AppendTo appends the body, 8 bytes.
func (p SyncUUID) AppendTo(dst []byte, _ *Session) []byte {
	return binary.BigEndian.AppendUint64(dst, p.UUID)
}

// Decode reads the body. Errors: ErrLength.
func (p *SyncUUID) Decode(body []byte, _ *Session) error {
	if len(body) != 8 {
		return lengthError(CmdSyncUUID, len(body), 8)
	}
	p.UUID = binary.BigEndian.Uint64(body)
	return nil
}

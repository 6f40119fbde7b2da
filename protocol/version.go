// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import "strings"

// Version is a DRBD protocol version. Zero stands for "not agreed yet": the
// first packets of a connection, up to the exchange of P_CONNECTION_FEATURES.
type Version uint16

// The protocol versions of DRBD 8.4, all of which this package speaks.
// spec: wire 10.
const (
	MinVersion Version = 86
	MaxVersion Version = 101
)

// Versions at which something on the wire changes (spec: wire 10). They are
// named here so that no bare version number appears in the rest of the code.
const (
	versionIntegrity   Version = 87  // P_PROTOCOL carries the integrity algorithm
	versionVerify      Version = 88  // online verify; P_SYNC_PARAM carries verify-alg
	versionSyncParam89 Version = 89  // P_SYNC_PARAM89; checksum resync
	versionRLE         Version = 90  // P_COMPRESSED_BITMAP
	versionDelayProbe  Version = 93  // P_DELAY_PROBE
	versionH95         Version = 95  // 32-bit lengths, 128 KiB, all data flags, resync controller
	versionAhead       Version = 96  // P_OUT_OF_SYNC, P_RS_CANCEL
	versionH100        Version = 100 // volumes, 1 MiB, ack flags, P_CONN_ST_CHG_*, P_RETRY_WRITE
)

// Features are the optional abilities two nodes agree on, bit by bit, beside
// the protocol version. spec: wire 4.1.
type Features uint32

// Feature flags of P_CONNECTION_FEATURES, with DRBD's bit values.
const (
	// FeatureTrim: P_TRIM may be sent.
	FeatureTrim Features = 1
	// FeatureThinResync: P_RS_THIN_REQ and P_RS_DEALLOCATED may be used.
	FeatureThinResync Features = 2
	// FeatureWSame: P_SIZES has its 24-byte tail, discards may be 128 MiB
	// long instead of 4 MiB, and P_WSAME may be sent if both P_SIZES say so.
	FeatureWSame Features = 4
	// FeatureWZeroes: P_ZEROES may be sent, and P_TRIM means only "discard".
	// Without it a received P_TRIM is carried out as zero-out.
	FeatureWZeroes Features = 8

	// AllFeatures are the flags of DRBD 8.4, all of which this package knows.
	AllFeatures = FeatureTrim | FeatureThinResync | FeatureWSame | FeatureWZeroes
)

// Has reports whether every flag of want is set.
func (f Features) Has(want Features) bool { return f&want == want }

// String returns the names of the set flags, for example "TRIM|WSAME", and
// "0" for none. Unknown flags are shown together as a hexadecimal number.
func (f Features) String() string {
	return flagString(uint64(f), []flagName{
		{uint64(FeatureTrim), "TRIM"},
		{uint64(FeatureThinResync), "THIN_RESYNC"},
		{uint64(FeatureWSame), "WSAME"},
		{uint64(FeatureWZeroes), "WZEROES"},
	})
}

// OfferableFeatures returns the features a node may announce whose highest
// protocol version is highest. A DRBD kernel below version 95 does not send the
// flags by which it picks P_TRIM, P_ZEROES and P_WSAME, so none of those three is
// to be offered then. spec: wire 4.8, trap 25.
func OfferableFeatures(highest Version) Features {
	if highest < versionH95 {
		return FeatureThinResync
	}
	return AllFeatures
}

// MaxBlockBytes is the largest range, in bytes, of one read, write or resync
// packet in any protocol version. A receiver must accept this much in every
// version. spec: wire 9.3.
const MaxBlockBytes = 1 << 20

// MaxDataBytes returns how many bytes of data a node may put into one P_DATA, or
// ask for in one P_DATA_REQUEST or P_RS_DATA_REQUEST, with a peer that
// agreed on v: 32 KiB up to version 94, 128 KiB up to 99, then 1 MiB.
// spec: wire 9.3.
func MaxDataBytes(v Version) uint32 {
	switch {
	case v >= versionH100:
		return MaxBlockBytes
	case v >= versionH95:
		return 128 << 10
	default:
		return 32 << 10
	}
}

// MaxDiscardBytes returns the longest range, in bytes, of one P_TRIM, P_ZEROES or
// P_WSAME: 128 MiB if FeatureWSame is agreed, else 4 MiB. spec: wire 9.3.
func MaxDiscardBytes(f Features) uint32 {
	if f.Has(FeatureWSame) {
		return 128 << 20
	}
	return 4 << 20
}

// flagName is one named bit, for String methods of flag words.
type flagName struct {
	bit  uint64
	name string
}

// flagString joins the names of the bits set in v, lowest bit first.
func flagString(v uint64, names []flagName) string {
	if v == 0 {
		return "0"
	}
	var b strings.Builder
	for _, n := range names {
		if v&n.bit == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('|')
		}
		b.WriteString(n.name)
		v &^= n.bit
	}
	if v != 0 {
		if b.Len() > 0 {
			b.WriteByte('|')
		}
		b.WriteString(hex(v))
	}
	return b.String()
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/crc32"
)

// MaxDigestBytes is the size of the longest digest.
const MaxDigestBytes = sha512.Size

// Digest is a digest algorithm for data-integrity-alg, verify-alg or csums-alg, known
// by the name the Linux kernel has for it. The zero value is "none": it has size 0.
// A Digest is a value, may be compared with == and used by several goroutines.
// spec: wire 4.9.
type Digest struct {
	kind digestKind
}

type digestKind uint8

const (
	noDigest digestKind = iota
	crc32cDigest
	xxhash64Digest
	md5Digest
	sha1Digest
	sha224Digest
	sha256Digest
	sha384Digest
	sha512Digest
	digestKinds
)

// LookupDigest returns the algorithm of that name: crc32c, xxhash64, md5, sha1,
// sha224, sha256, sha384, sha512; "" is the zero Digest. Errors: ErrUnknownAlgorithm.
func LookupDigest(name string) (Digest, error) {
	for k := noDigest; k < digestKinds; k++ {
		if d := (Digest{k}); d.Name() == name {
			return d, nil
		}
	}
	return Digest{}, fmt.Errorf("%w: %q", ErrUnknownAlgorithm, name)
}

// Name returns the kernel's name of the algorithm; "" for none.
func (d Digest) Name() string {
	return [digestKinds]string{
		"", "crc32c", "xxhash64", "md5", "sha1", "sha224", "sha256", "sha384", "sha512",
	}[d.kind]
}

// Size returns the number of bytes of a digest; 0 for none.
func (d Digest) Size() int {
	return [digestKinds]int{
		0, crc32.Size, 8, md5.Size, sha1.Size, sha256.Size224, sha256.Size, sha512.Size384, sha512.Size,
	}[d.kind]
}

// Sum appends the digest of data to dst, as it goes on the wire: crc32c and xxhash64
// are little-endian numbers, the others byte strings. It allocates nothing if dst
// has room.
func (d Digest) Sum(dst, data []byte) []byte {
	switch d.kind {
	case crc32cDigest:
		// MakeTable only looks the ready-made table up.
		return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
	case xxhash64Digest:
		return binary.LittleEndian.AppendUint64(dst, xxhash.Sum64(data))
	case md5Digest:
		h := md5.Sum(data)
		return append(dst, h[:]...)
	case sha1Digest:
		h := sha1.Sum(data)
		return append(dst, h[:]...)
	case sha224Digest:
		h := sha256.Sum224(data)
		return append(dst, h[:]...)
	case sha256Digest:
		h := sha256.Sum256(data)
		return append(dst, h[:]...)
	case sha384Digest:
		h := sha512.Sum384(data)
		return append(dst, h[:]...)
	case sha512Digest:
		h := sha512.Sum512(data)
		return append(dst, h[:]...)
	}
	return dst
}

// Verify compares data with the digest that came with it. The digest is not keyed:
// it finds damage, not malice. Errors: ErrDigest.
func (d Digest) Verify(data, digest []byte) error {
	var room [MaxDigestBytes]byte
	if subtle.ConstantTimeCompare(d.Sum(room[:0], data), digest) != 1 {
		return fmt.Errorf("%w: %s of %d bytes", ErrDigest, d.Name(), len(data))
	}
	return nil
}

// newHash returns the constructor for HMAC; nil if the algorithm is no cryptographic
// hash.
func (d Digest) newHash() func() hash.Hash {
	switch d.kind {
	case md5Digest:
		return md5.New
	case sha1Digest:
		return sha1.New
	case sha224Digest:
		return sha256.New224
	case sha256Digest:
		return sha256.New
	case sha384Digest:
		return sha512.New384
	case sha512Digest:
		return sha512.New
	}
	return nil
}

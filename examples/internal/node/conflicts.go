// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import "github.com/go-blockmirror/blockmirror/protocol"

// What is refused because options do not go together, with the codes that the kernel's
// DRBD gives (spec: behaviour 10.4).

// conflicts says what is wrong with the options of a connection of r, which may be nil.
// The caller does not hold r.mu.
func (c *Net) conflicts(r *Resource) error {
	for name, code := range map[string]Code{
		"cram-hmac-alg": CodeAuthAlg, "data-integrity-alg": CodeIntegrityAlg, "csums-alg": CodeCSumsAlg, "verify-alg": CodeVerifyAlg,
	} {
		if _, err := protocol.LookupDigest(c.Options[name]); err != nil {
			return failure(code, "%s: there are crc32c, xxhash64, md5, sha1, sha224, sha256, sha384 and sha512", name)
		}
	}
	proto := NetOptions.value(c.Options, "protocol")
	switch {
	case proto != "C" && NetOptions.yes(c.Options, "allow-two-primaries"):
		return failure(CodeNeedProtocolC, "allow-two-primaries with protocol %s", proto)
	case proto != "A" && NetOptions.value(c.Options, "on-congestion") != "block":
		return failure(CodeCongestionNeedsA, "protocol %s: a write waits for the peer anyway", proto)
	case proto == "A" && r != nil:
		r.mu.RLock()
		defer r.mu.RUnlock()
		for _, v := range r.volumes {
			if DiskOptions.value(v.options, "fencing") == "resource-and-stonith" {
				return failure(CodeStonithWithA, "volume %d", v.id)
			}
		}
	}
	return nil
}

// conflicts says what is wrong with the options of a disk of v.
func (v *Volume) conflicts(o Options) error {
	if c := v.r.Net(); c != nil && NetOptions.value(c.Options, "protocol") == "A" && DiskOptions.value(o, "fencing") == "resource-and-stonith" {
		return failure(CodeStonithWithA, "volume %d", v.id)
	}
	n := v.r.node
	n.mu.RLock()
	defer n.mu.RUnlock()
	seen := map[*Volume]bool{}
	for next := o; ; {
		after := n.minors[int(DiskOptions.number(next, "resync-after"))]
		if after == nil {
			return nil
		}
		if after == v || seen[after] {
			return failure(CodeAfterCycle, "minor %d would wait for itself", v.minor)
		}
		seen[after] = true
		after.r.mu.RLock()
		next = after.options
		after.r.mu.RUnlock()
	}
}

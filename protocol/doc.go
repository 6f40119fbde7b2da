// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package protocol is the DRBD 8.4 wire protocol, versions 86 to 101, as pure
// functions on bytes.
package protocol

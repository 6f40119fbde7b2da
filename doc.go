// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package blockmirror is the root of a Go SDK for synchronous block mirroring.
package blockmirror

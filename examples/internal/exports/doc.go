// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package exports serves a node's devices over NBD.
//
// Every volume is an export called RESOURCE/VOLUME, and one of a resource with a single
// volume is called RESOURCE too. Exports come and go with the volumes. A client of a
// Secondary is refused, or promotes the resource if the node is configured so.
package exports

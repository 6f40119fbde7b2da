// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package conf makes a node's configuration of drbd.conf, which package drbdconf reads.
//
// A resource of which this node is no host is left out. What cannot be honoured is said
// in a warning, or is an error where ignoring it could cost data.
package conf

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package examples holds the example programs of blockmirror, each in a folder of its own.
package examples

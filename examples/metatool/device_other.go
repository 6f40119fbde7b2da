// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

// exclusive is not to be had here.
const exclusive = 0

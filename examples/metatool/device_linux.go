// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import "syscall"

// exclusive makes opening a block device fail while the kernel uses it.
const exclusive = syscall.O_EXCL

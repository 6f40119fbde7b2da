// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package kerneldrbd runs the Linux kernel's DRBD 8.4 in a virtual machine, so that a
// test can have the real thing as the peer of a blockmirror node. It is for tests on
// Linux only; what it learns of the kernel stands in docs/kernel-peer.md.
//
//	 this host                                   guest (QEMU, software emulation)
//	+------------------------+                  +-----------------------------------+
//	| test process           |   commands       | busybox, drbdmeta, drbdsetup-84   |
//	|   Guest.Run    --------+------------------+-> sh -c ...        (virtio ports) |
//	|   Guest.Log    <-------+------------------+-- /dev/kmsg                       |
//	|                        |                  |                                   |
//	|   blockmirror node     |   TCP            |   /dev/drbd0    drbd.ko 8.4.11    |
//	|   127.0.0.1:P   <------+-- 10.0.2.2:P ----+--      |                          |
//	|   Guest.HostPort ------+------------------+--> 10.0.2.15:7788                 |
//	|                        |                  |        |                          |
//	|   raw files     <------+-- virtio-blk ----+-- /dev/vda, /dev/vdb, ...         |
//	+------------------------+                  +-----------------------------------+
//
// The disks of the guest are files of the host, without a cache in between: what the
// kernel has written can be read, compared and opened with package metadata at once,
// and after a crash too. The guest reaches nothing but this host's loopback address.
//
// # The parts
//
//   - Start boots a guest in about three seconds; Guest.Run runs shell commands in it,
//     several at a time; Guest.Log and Guest.WaitLog read the kernel's log, which
//     arrives as it is written; Guest.Crash is a power failure, Guest.Restart boots
//     again with the same disks.
//   - Resource drives one DRBD resource of the guest with drbdmeta and drbdsetup-84.
//   - ParseProc reads /proc/drbd, of the kernel or as package replica prints it.
//
// QEMU is killed when the test process ends, however it ends.
//
// # What has to be installed
//
// Debian 12 packages: qemu-system-x86, busybox-static, drbd-utils, xz-utils. The kernel comes
// from the package that linux-image-amd64 depends on: apt-get (after apt-get update)
// downloads it once, dpkg-deb unpacks the few files of it that are needed, into
// $BLOCKMIRROR_CACHE or, if that is not set, blockmirror-kerneldrbd in the user's cache
// folder. It is not installed and nothing of it becomes part of this module. Available says what is
// missing; tests call Require, which skips, or fails if the environment variable CI is set.
package kerneldrbd

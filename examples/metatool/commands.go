// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

// command is one of the things the program does.
type command struct {
	name, args string
	run        func(*tool) error
}

// commands are the commands in the order of the usage text.
var commands = []command{
	{"create-md", "[MAX_PEERS] [OPTIONS]", (*tool).createMD},
	{"dump-md", "", (*tool).dumpMD},
	{"restore-md", "[FILE] [--al-stripes N] [--al-stripe-size-kB N]", (*tool).restoreMD},
	{"verify-dump", "[FILE]", (*tool).verifyDump},
	{"apply-al", "", (*tool).applyAL},
	{"show-gi", "[--node-id N]", (*tool).showGI},
	{"get-gi", "[--node-id N]", (*tool).getGI},
	{"set-gi", "GI [--node-id N]", (*tool).setGI},
	{"dstate", "", (*tool).dstate},
	{"outdate", "", (*tool).outdate},
	{"invalidate", "", (*tool).invalidate},
	{"forget-peer", "--node-id N", (*tool).forgetPeer},
	{"read-dev-uuid", "", (*tool).readDevUUID},
	{"write-dev-uuid", "UUID", (*tool).writeDevUUID},
	{"check-resize", "[--last-size BYTES] [--out-of-sync]", (*tool).checkResize},
	{"wipe-md", "", (*tool).wipeMD},
}

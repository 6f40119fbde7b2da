// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package control is how drbdsetup and the daemon talk: HTTP and JSON over a unix
// socket that only its owner can open.
//
//	POST /v1/commands/VERB   {"args": ["0"], "options": {"force": "yes"}}
//	                      -> {"exit": 0, "output": ""}
//	                      or {"exit": 17, "code": -2, "error": "State change failed: (-2) ..."}
//	GET  /v1/status          ?resource=r0 &format=json|text|proc &verbose=yes &statistics=yes
//	GET  /v1/events2         ?resource=r0 &now=yes &statistics=yes &timestamps=yes, a line each
//
// The verbs, their arguments and their options are DRBD 8.4's; the table Verbs has them
// all. A command that fails is an answer like another: its HTTP status is 200. Other
// statuses are for requests that are no command.
package control

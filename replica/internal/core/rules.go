// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package core

import "github.com/go-blockmirror/blockmirror/protocol"

// The rules of a DRBD state: what is valid, what may follow what, and what a
// state is turned into before it is looked at. One row a rule, named as in
// spec: behaviour 2.2 to 2.4.

// ruleEnv is what the rules look at besides the states.
type ruleEnv struct {
	twoPrimaries bool
	otherPrimary bool // another volume sees the peer as Primary
	fencing      bool // fencing is resource-only or stricter
	open         bool // the device is held open
	verifyAlg    bool
	version      protocol.Version
	handshaking  bool // X7: own state was sent, and some volume is still in WFReportParams
}

// validity is a V-rule: the state is invalid if bad.
type validity struct {
	name string
	code protocol.Code
	bad  func(s protocol.State, e *ruleEnv) bool
}

var validityRules = []validity{
	{"V1", protocol.CodeTwoPrimaries, func(s protocol.State, e *ruleEnv) bool {
		return !e.twoPrimaries && s.Role == protocol.Primary && s.Peer == protocol.Primary
	}},
	{"V2", protocol.CodeOtherVolumePeerPrimary, func(s protocol.State, e *ruleEnv) bool {
		return !e.twoPrimaries && s.Role == protocol.Primary && e.otherPrimary
	}},
	{"V3", protocol.CodeDeviceInUse, func(s protocol.State, e *ruleEnv) bool {
		return s.Role == protocol.Secondary && e.open
	}},
	{"V4", protocol.CodeNoUpToDateDisk, func(s protocol.State, e *ruleEnv) bool {
		return s.Role == protocol.Primary && s.Conn < protocol.Connected && s.Disk < protocol.UpToDate
	}},
	{"V5", protocol.CodePeerNotOutdated, func(s protocol.State, e *ruleEnv) bool {
		return e.fencing && s.Role == protocol.Primary && s.Conn < protocol.Connected && s.PeerDisk >= protocol.DUnknown
	}},
	{"V6", protocol.CodeNoUpToDateDisk, func(s protocol.State, e *ruleEnv) bool {
		return s.Role == protocol.Primary && s.Disk <= protocol.Inconsistent && s.PeerDisk <= protocol.Inconsistent
	}},
	{"V7", protocol.CodeNoLocalDisk, func(s protocol.State, e *ruleEnv) bool {
		return s.Conn > protocol.Connected && s.Disk < protocol.Inconsistent
	}},
	{"V8", protocol.CodeNoRemoteDisk, func(s protocol.State, e *ruleEnv) bool {
		return s.Conn > protocol.Connected && s.PeerDisk < protocol.Inconsistent
	}},
	{"V9", protocol.CodeNoUpToDateDisk, func(s protocol.State, e *ruleEnv) bool {
		return s.Conn > protocol.Connected && s.Disk < protocol.UpToDate && s.PeerDisk < protocol.UpToDate
	}},
	{"V10", protocol.CodeConnectedOutdates, func(s protocol.State, e *ruleEnv) bool {
		return (s.Conn == protocol.Connected || s.Conn == protocol.WFBitMapS || s.Conn == protocol.SyncSource ||
			s.Conn == protocol.PausedSyncS) && s.Disk == protocol.Outdated
	}},
	{"V11", protocol.CodeNoVerifyAlg, func(s protocol.State, e *ruleEnv) bool {
		return (s.Conn == protocol.VerifyS || s.Conn == protocol.VerifyT) && !e.verifyAlg
	}},
	{"V12", protocol.CodeNotSupported, func(s protocol.State, e *ruleEnv) bool {
		return (s.Conn == protocol.VerifyS || s.Conn == protocol.VerifyT) && e.version < 88
	}},
	{"V13", protocol.CodeNoUpToDateDisk, func(s protocol.State, e *ruleEnv) bool {
		return s.Role == protocol.Primary && s.Disk < protocol.UpToDate && s.PeerDisk < protocol.UpToDate
	}},
	{"V14", protocol.CodeNeedConnection, func(s protocol.State, e *ruleEnv) bool {
		return (s.Conn == protocol.StartingSyncS || s.Conn == protocol.StartingSyncT) && s.PeerDisk == protocol.DUnknown
	}},
	{"V15", protocol.CodeConnectedOutdates, func(s protocol.State, e *ruleEnv) bool {
		return s.Conn >= protocol.Connected && s.PeerDisk == protocol.DUnknown
	}},
}

// invalid returns the first rule that s breaks.
func invalid(s protocol.State, e *ruleEnv) (rule string, code protocol.Code, bad bool) {
	for i := range validityRules {
		if r := &validityRules[i]; r.bad(s, e) {
			return r.name, r.code, true
		}
	}
	return "", protocol.CodeSuccess, false
}

// transitionRule is a T- or X-rule: the change is refused if bad.
type transitionRule struct {
	name string
	code protocol.Code
	bad  func(old, s protocol.State, e *ruleEnv) bool
}

// hardRules are checked for facts too; the first match wins.
var hardRules = []transitionRule{
	{"T2", protocol.CodeAlreadyStandAlone, func(o, s protocol.State, _ *ruleEnv) bool {
		return o.Conn == protocol.StandAlone && s.Conn == protocol.Disconnecting
	}},
	{"T3", protocol.CodeNeedConnection, func(o, s protocol.State, _ *ruleEnv) bool {
		return o.Conn == protocol.StandAlone && s.Conn != protocol.StandAlone && s.Conn != protocol.Unconnected
	}},
	{"T4", protocol.CodeNeedConnection, func(o, s protocol.State, _ *ruleEnv) bool {
		return o.Conn < protocol.WFReportParams && s.Conn >= protocol.Connected
	}},
	{"T5", protocol.CodeInTransientState, func(o, s protocol.State, _ *ruleEnv) bool {
		return o.Conn >= protocol.Timeout && o.Conn <= protocol.TearDown && s.Conn != o.Conn &&
			s.Conn != protocol.Unconnected && s.Conn != protocol.Disconnecting
	}},
	{"T6", protocol.CodeInTransientState, func(o, s protocol.State, _ *ruleEnv) bool {
		return o.Conn == protocol.Disconnecting && s.Conn != o.Conn && s.Conn != protocol.StandAlone
	}},
	{"T7", protocol.CodeDiskless, func(o, s protocol.State, _ *ruleEnv) bool {
		return o.Disk == protocol.Diskless && s.Disk == protocol.Failed
	}},
}

// softRules are checked for wishes only; the last match wins.
var softRules = []transitionRule{
	{"X1", protocol.CodeResyncRunning, func(o, s protocol.State, _ *ruleEnv) bool {
		return startsSync(s.Conn) && s.Conn != o.Conn && o.Conn > protocol.Connected
	}},
	{"X2", protocol.CodeAlreadyStandAlone, func(o, s protocol.State, _ *ruleEnv) bool {
		return o.Conn == protocol.StandAlone && s.Conn == protocol.Disconnecting
	}},
	{"X3", protocol.CodeDiskless, func(o, s protocol.State, _ *ruleEnv) bool {
		return o.Disk == protocol.Diskless && s.Disk > protocol.Attaching
	}},
	{"X4", protocol.CodeNoNetConfig, func(o, s protocol.State, _ *ruleEnv) bool {
		return s.Conn == protocol.WFConnection && o.Conn < protocol.Unconnected
	}},
	{"X5", protocol.CodeLowerThanOutdated, func(o, s protocol.State, _ *ruleEnv) bool {
		return s.Disk == protocol.Outdated && o.Disk < protocol.Outdated && o.Disk != protocol.Attaching
	}},
	{"X6", protocol.CodeInTransientState, func(o, s protocol.State, _ *ruleEnv) bool {
		return o.Conn == protocol.Unconnected && s.Conn == protocol.Disconnecting
	}},
	{"X7", protocol.CodeInTransientState, func(o, s protocol.State, e *ruleEnv) bool {
		return e.handshaking &&
			!(o.Conn == protocol.WFConnection && s.Conn == protocol.WFReportParams) &&
			!(o.Conn == protocol.WFReportParams && s.Conn >= protocol.Connected)
	}},
	{"X8", protocol.CodeInTransientState, func(o, s protocol.State, _ *ruleEnv) bool {
		return o.Role == protocol.Secondary && s.Role == protocol.Primary && s.PeerDisk == protocol.UpToDate &&
			s.Disk != protocol.UpToDate && s.Disk != protocol.Diskless &&
			(s.Conn <= protocol.WFSyncUUID || s.Conn != o.Conn)
	}},
	{"X9", protocol.CodeNeedConnection, func(o, s protocol.State, _ *ruleEnv) bool {
		return verifies(s.Conn) && o.Conn < protocol.Connected
	}},
	{"X10", protocol.CodeResyncRunning, func(o, s protocol.State, _ *ruleEnv) bool {
		return verifies(s.Conn) && s.Conn != o.Conn && o.Conn > protocol.Connected
	}},
	{"X11", protocol.CodeNeedConnection, func(o, s protocol.State, _ *ruleEnv) bool {
		return startsSync(s.Conn) && o.Conn < protocol.Connected
	}},
	{"X12", protocol.CodeNeedConnection, func(o, s protocol.State, _ *ruleEnv) bool {
		return (s.Conn == protocol.SyncSource || s.Conn == protocol.SyncTarget) && o.Conn < protocol.WFReportParams
	}},
	{"X13", protocol.CodeNeedConnectionOutdate, func(o, s protocol.State, _ *ruleEnv) bool {
		return s.Conn == protocol.Disconnecting && s.PeerDisk == protocol.Outdated &&
			o.Conn < protocol.Connected && o.PeerDisk > protocol.Outdated
	}},
}

func startsSync(c protocol.ConnState) bool {
	return c == protocol.StartingSyncS || c == protocol.StartingSyncT
}

// targets reports whether this node is, or is about to become, a sync target.
func targets(c protocol.ConnState) bool {
	switch c {
	case protocol.StartingSyncT, protocol.WFBitMapT, protocol.WFSyncUUID, protocol.SyncTarget, protocol.PausedSyncT, protocol.Behind:
		return true
	}
	return false
}

// sources is targets for the peer.
func sources(c protocol.ConnState) bool {
	switch c {
	case protocol.StartingSyncS, protocol.WFBitMapS, protocol.SyncSource, protocol.PausedSyncS, protocol.Ahead:
		return true
	}
	return false
}

func verifies(c protocol.ConnState) bool { return c == protocol.VerifyS || c == protocol.VerifyT }

// refusedHard returns the first T-rule that the change breaks.
func refusedHard(o, s protocol.State, e *ruleEnv) (rule string, code protocol.Code, bad bool) {
	for i := range hardRules {
		if r := &hardRules[i]; r.bad(o, s, e) {
			return r.name, r.code, true
		}
	}
	return "", protocol.CodeSuccess, false
}

// refusedSoft returns the last X-rule that the change breaks.
func refusedSoft(o, s protocol.State, e *ruleEnv) (rule string, code protocol.Code, bad bool) {
	for i := len(softRules) - 1; i >= 0; i-- {
		if r := &softRules[i]; r.bad(o, s, e) {
			return r.name, r.code, true
		}
	}
	return "", protocol.CodeSuccess, false
}

// diskRange is a row of S7: the range into which a connection state puts both disks.
type diskRange struct {
	conns            []protocol.ConnState
	diskMin, diskMax protocol.DiskState
	pdskMin, pdskMax protocol.DiskState
}

var diskRanges = []diskRange{
	{[]protocol.ConnState{protocol.WFBitMapT, protocol.PausedSyncT, protocol.StartingSyncT, protocol.WFSyncUUID, protocol.Behind},
		protocol.Inconsistent, protocol.Outdated, protocol.UpToDate, protocol.UpToDate},
	{[]protocol.ConnState{protocol.VerifyS, protocol.VerifyT},
		protocol.UpToDate, protocol.UpToDate, protocol.UpToDate, protocol.UpToDate},
	{[]protocol.ConnState{protocol.WFBitMapS, protocol.PausedSyncS, protocol.StartingSyncS, protocol.Ahead},
		protocol.UpToDate, protocol.UpToDate, protocol.Inconsistent, protocol.Consistent},
	{[]protocol.ConnState{protocol.SyncTarget},
		protocol.Inconsistent, protocol.Inconsistent, protocol.UpToDate, protocol.UpToDate},
	{[]protocol.ConnState{protocol.SyncSource},
		protocol.UpToDate, protocol.UpToDate, protocol.Inconsistent, protocol.Inconsistent},
}

// sanitize turns a wished state into a possible one (spec: behaviour 2.4, S1 to
// S11; S4 needs the volume and is done by the caller, S8 and S9 look at the
// former state and are in suspend.go). abort reports S3.
func sanitize(s protocol.State) (out protocol.State, abort bool) {
	if s.Conn < protocol.Connected { // S1
		s.PeerISP = false
		s.Peer = protocol.RoleUnknown
		if s.PeerDisk != protocol.Inconsistent && s.PeerDisk != protocol.Outdated {
			s.PeerDisk = protocol.DUnknown
		}
	}
	if s.Conn == protocol.StandAlone && s.Disk == protocol.Diskless && s.Role == protocol.Secondary { // S2
		s.AftrISP = false
	}
	if s.Conn > protocol.Connected && (s.Disk <= protocol.Failed || s.PeerDisk <= protocol.Failed) { // S3
		// The target's data is older than what the source had: S5 must not call
		// it UpToDate. DRBD's does.
		if targets(s.Conn) && s.Disk > protocol.Inconsistent {
			s.Disk = protocol.Inconsistent
		}
		if sources(s.Conn) && s.PeerDisk > protocol.Inconsistent {
			s.PeerDisk = protocol.Inconsistent
		}
		s.Conn, abort = protocol.Connected, true
	}
	if s.Conn >= protocol.Connected && s.Conn < protocol.Ahead { // S5, S6
		s.Disk, s.PeerDisk = connectedDisk(s.Disk), connectedDisk(s.PeerDisk)
	}
	s = clampDisks(s) // S7
	paused := s.AftrISP || s.PeerISP || s.UserISP
	switch { // S10, S11
	case paused && s.Conn == protocol.SyncSource:
		s.Conn = protocol.PausedSyncS
	case paused && s.Conn == protocol.SyncTarget:
		s.Conn = protocol.PausedSyncT
	case !paused && s.Conn == protocol.PausedSyncS:
		s.Conn = protocol.SyncSource
	case !paused && s.Conn == protocol.PausedSyncT:
		s.Conn = protocol.SyncTarget
	default:
		return s, abort
	}
	return clampDisks(s), abort
}

// connectedDisk is S5: connected nodes are neither Outdated nor just Consistent.
func connectedDisk(d protocol.DiskState) protocol.DiskState {
	if d == protocol.Consistent || d == protocol.Outdated {
		return protocol.UpToDate
	}
	return d
}

func clampDisks(s protocol.State) protocol.State {
	for i := range diskRanges {
		r := &diskRanges[i]
		for _, conn := range r.conns {
			if conn == s.Conn {
				s.Disk = min(max(s.Disk, r.diskMin), r.diskMax)
				s.PeerDisk = min(max(s.PeerDisk, r.pdskMin), r.pdskMax)
				return s
			}
		}
	}
	return s
}

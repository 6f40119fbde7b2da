// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package protocol

import "strconv"

// Code is the result of a state change, here or asked of the peer. 1 and above is
// success or consent, 0 and below a refusal. It is an error value too, so that a
// refusal can be returned and found again with errors.Is or errors.As.
// spec: wire 3.5, behaviour 2.1.
type Code int32

// The result codes, with DRBD's values.
const (
	CodeNoNeedForClusterWide Code = 4 // the change concerns this node only
	CodeClusterWideSuccess   Code = 3
	CodeNothingToDo          Code = 2
	CodeSuccess              Code = 1
	CodeKeepWaiting          Code = 0 // internal to a requester: no answer yet

	CodeTwoPrimaries           Code = -1
	CodeNoUpToDateDisk         Code = -2
	CodeNoLocalDisk            Code = -4
	CodeNoRemoteDisk           Code = -5
	CodeConnectedOutdates      Code = -6
	CodePeerNotOutdated        Code = -7
	CodeResyncRunning          Code = -8
	CodeAlreadyStandAlone      Code = -9
	CodeRefusedByPeer          Code = -10
	CodeDiskless               Code = -11
	CodeDeviceInUse            Code = -12
	CodeNoNetConfig            Code = -13
	CodeNoVerifyAlg            Code = -14
	CodeNeedConnection         Code = -15
	CodeLowerThanOutdated      Code = -16
	CodeNotSupported           Code = -17
	CodeInTransientState       Code = -18 // wait for the next state change and try again
	CodeConcurrentStateChange  Code = -19
	CodeOtherVolumePeerPrimary Code = -20
	CodeNeedConnectionOutdate  Code = -21
)

// Success reports whether c is success or consent.
func (c Code) Success() bool { return c >= CodeSuccess }

// String returns the text DRBD shows its users.
func (c Code) String() string {
	switch c {
	case CodeNoNeedForClusterWide:
		return "No need for cluster-wide state change"
	case CodeClusterWideSuccess:
		return "Cluster-wide state change succeeded"
	case CodeNothingToDo:
		return "Nothing to do"
	case CodeSuccess:
		return "Success"
	case CodeKeepWaiting:
		return "Keep waiting"
	case CodeTwoPrimaries:
		return "Multiple primaries not allowed by config"
	case CodeNoUpToDateDisk:
		return "Need access to UpToDate data"
	case CodeNoLocalDisk:
		return "Can not resync without local disk"
	case CodeNoRemoteDisk:
		return "Can not resync without remote disk"
	case CodeConnectedOutdates:
		return "Refusing to be Outdated while Connected"
	case CodePeerNotOutdated:
		return "Refusing to be Primary while peer is not outdated"
	case CodeResyncRunning:
		return "Can not start OV/resync since it is already active"
	case CodeAlreadyStandAlone:
		return "Can not disconnect a StandAlone device"
	case CodeRefusedByPeer:
		return "State change was refused by peer node"
	case CodeDiskless:
		return "Device is diskless, the requested operation requires a disk"
	case CodeDeviceInUse:
		return "Device is held open by someone"
	case CodeNoNetConfig:
		return "Have no net/connection configuration"
	case CodeNoVerifyAlg:
		return "Need a verify algorithm to start online verify"
	case CodeNeedConnection:
		return "Need a connection to start verify or resync"
	case CodeLowerThanOutdated:
		return "Disk state is lower than outdated"
	case CodeNotSupported:
		return "Peer does not support protocol"
	case CodeInTransientState:
		return "In transient state, retry after next state change"
	case CodeConcurrentStateChange:
		return "Concurrent state changes detected and aborted"
	case CodeOtherVolumePeerPrimary:
		return "Other vol primary on peer not allowed by config"
	case CodeNeedConnectionOutdate:
		return "Need a connection for a graceful disconnect/outdate peer"
	}
	return "state change result " + strconv.Itoa(int(c))
}

// Error returns String; it makes a Code an error. Check Success first: a Code
// of success is an error value like any other.
func (c Code) Error() string { return c.String() }

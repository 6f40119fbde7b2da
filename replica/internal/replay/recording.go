// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// Kind says what an Entry is.
type Kind string

// The kinds of entries.
const (
	Open    Kind = "open"   // a node begins: Config, Disks
	Rand    Kind = "rand"   // the node drew Value
	Command Kind = "cmd"    // the administrator's command ID begins: Name, Volume, Disks for attach
	IO      Kind = "io"     // the application's request ID begins: Name, Volume, Off, Len, Data, FUA
	Return  Kind = "ret"    // command or request ID ended, with success unless Failed
	Pair    Kind = "pair"   // a connection exists: Resolver
	Receive Kind = "rx"     // the kernel sent a packet: Stream, Packet, Data
	Send    Kind = "tx"     // the node sent a packet: Stream, Packet, Len and Hash of the rest
	Ended   Kind = "eof"    // the kernel ended, or lost, Stream
	Fault   Kind = "fault"  // the data disk of Volume fails from now on at Off, Len: Name is "read", "write"; Hang
	Heal    Kind = "heal"   // all faults end
	Put     Kind = "put"    // Data was put onto the data disk of Volume at Off behind the node's back
	Kill    Kind = "kill"   // the node is gone
	Status  Kind = "status" // Volumes is what the node says
)

// Entry is one thing that happened. Which fields mean something depends on Kind.
type Entry struct {
	Kind     Kind            `json:"k"`
	Millis   int64           `json:"t,omitempty"` // since the first entry
	ID       int             `json:"id,omitempty"`
	Name     string          `json:"n,omitempty"`
	Volume   int             `json:"v,omitempty"` // index
	Off      int64           `json:"o,omitempty"`
	Len      int64           `json:"l,omitempty"`
	Data     Content         `json:"d,omitempty"`
	FUA      bool            `json:"fua,omitempty"`
	Failed   bool            `json:"fail,omitempty"`
	Hang     bool            `json:"hang,omitempty"`
	Resolver bool            `json:"res,omitempty"`
	Stream   protocol.Stream `json:"s,omitempty"`
	Pair     int             `json:"p,omitempty"` // number of the connection, from 1
	Packet   []byte          `json:"b,omitempty"` // header, and body up to the data
	Hash     uint64          `json:"h,omitempty"`
	Value    uint64          `json:"x,omitempty"`
	Config   *Config         `json:"cfg,omitempty"`
	Disks    []Disk          `json:"disks,omitempty"`
	Volumes  []VolumeStatus  `json:"vol,omitempty"`
}

func (e *Entry) at() time.Duration { return time.Duration(e.Millis) * time.Millisecond }

// Config is the part of core.Config that is data.
type Config struct {
	Name    string
	Volumes []core.VolumeConfig
	Peers   []core.PeerConfig
	Net     core.NetOptions
}

// Disk is what a volume's disk holds when it is attached. Size 0 means no disk.
type Disk struct {
	Size     int64           `json:"size,omitempty"`
	Data     Content         `json:"data,omitempty"`
	Location string          `json:"loc,omitempty"` // of external metadata, as metadata.ParseLocation reads it
	MetaSize int64           `json:"metasize,omitempty"`
	Meta     Content         `json:"meta,omitempty"`
	Limits   core.DiskLimits `json:"lim,omitzero"`
}

// VolumeStatus is what a node says of a volume.
type VolumeStatus struct {
	State     string
	OutOfSync uint64 // blocks
	IDs       string
}

// StatusOf returns the states of all volumes.
func StatusOf(s core.Snapshot) []VolumeStatus {
	var list []VolumeStatus
	for _, v := range s.Volumes {
		list = append(list, VolumeStatus{StateText(v.State), v.OutOfSync, v.IDs.String()})
	}
	return list
}

// StateText writes a state as /proc/drbd does.
func StateText(s protocol.State) string {
	return fmt.Sprintf("%v %v/%v %v/%v", s.Conn, s.Role, s.Peer, s.Disk, s.PeerDisk)
}

// Recording is what happened in one scenario, in order.
type Recording []Entry

// maxEntries bounds what ReadRecording reads.
const maxEntries = 1 << 20

// ErrRecording is a recording that cannot be.
var ErrRecording = errors.New("replay: not a recording")

// ReadRecording reads compressed lines of JSON.
func ReadRecording(r io.Reader) (Recording, error) {
	z, err := gzip.NewReader(bufio.NewReader(r))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecording, err)
	}
	dec := json.NewDecoder(z)
	var rec Recording
	for {
		var e Entry
		if err := dec.Decode(&e); err == io.EOF {
			return rec, nil
		} else if err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", ErrRecording, len(rec), err)
		}
		if rec = append(rec, e); len(rec) > maxEntries {
			return nil, fmt.Errorf("%w: more than %d entries", ErrRecording, maxEntries)
		}
	}
}

// Write writes what ReadRecording reads.
func (rec Recording) Write(w io.Writer) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(z)
	enc.SetEscapeHTML(false)
	for i := range rec {
		if err := enc.Encode(&rec[i]); err != nil {
			return err
		}
	}
	return z.Close()
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/rpc"
	"os"
	"os/signal"
	"time"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
	"github.com/go-blockmirror/blockmirror/transport"
)

// nodeCommand is the first argument of a process that is to be a node.
const nodeCommand = "node"

// nodeConfig is what a node process is told on its command line.
type nodeConfig struct {
	name, peer    string
	disk          string // path
	local, remote string // host:port
	verbose       bool
}

// Node is one of the two machines: a process with a disk and a resource of one
// volume. Its exported methods are what the parent can ask it to do (net/rpc).
type Node struct {
	disk    *blockdev.File
	tcp     *transport.TCP
	res     *replica.Resource
	vol     *replica.Volume
	resyncs chan Resync
}

// Resync is a resync that has ended.
type Resync struct{ Blocks, Failed uint64 }

// Status is the part of replica.Status that the parent shows and checks.
type Status struct {
	Size      int64 // bytes
	Connected bool
	OutOfSync int64 // bytes
	Proc      string

	// Of the resync that runs, if Running.
	Running  bool
	Percent  float64
	Rate     int64 // bytes per second
	TimeLeft time.Duration
}

// Block is one block of the volume.
type Block struct {
	Offset int64
	Data   []byte
}

// Range is a part of the volume.
type Range struct {
	Offset int64
	Length int
}

// openNode brings the node into service: Secondary, and not connected.
func openNode(cfg nodeConfig) (*Node, error) {
	disk, err := blockdev.Open(cfg.disk, blockdev.Options{})
	if err != nil {
		return nil, err
	}
	tcp, err := transport.NewTCP(transport.TCPConfig{
		Local: cfg.local, Remote: cfg.remote,
		// The defaults suit a kernel's DRBD on the other end of a city.
		ConnectInterval: 300 * time.Millisecond, SocketCheckTimeout: 50 * time.Millisecond,
	})
	if err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	logger := slog.New(slog.DiscardHandler)
	if cfg.verbose {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", cfg.name)
	}
	res, err := replica.Open(context.Background(), replica.Config{
		Name:    "quickstart",
		Volumes: []replica.VolumeConfig{{Disk: disk}},
		Peers:   []replica.PeerConfig{{Name: cfg.peer, Transport: tcp}},
		Logger:  logger,
	})
	if err != nil {
		return nil, errors.Join(err, tcp.Close(), disk.Close())
	}
	n := &Node{disk: disk, tcp: tcp, res: res, vol: res.Volume(0), resyncs: make(chan Resync, 16)}
	events := res.Events(context.Background())
	go func() {
		for ev := range events {
			if ev.Kind == replica.EventResyncDone {
				n.resyncs <- Resync{ev.Blocks, ev.Failed}
			}
		}
	}()
	return n, nil
}

// Connect begins to look for the peer.
func (n *Node) Connect(struct{}, *struct{}) error { return n.res.Connect(context.Background()) }

// WaitConnected waits for the peer.
func (n *Node) WaitConnected(struct{}, *struct{}) error {
	return n.res.WaitConnected(context.Background())
}

// Promote makes the node Primary. Force declares its data good.
func (n *Node) Promote(force bool, _ *struct{}) error {
	if force {
		return n.res.Promote(context.Background(), replica.Force())
	}
	return n.res.Promote(context.Background())
}

// Demote makes the node Secondary.
func (n *Node) Demote(struct{}, *struct{}) error { return n.res.Demote(context.Background()) }

// Write writes to the volume. When it returns, the data is on both nodes if they
// are connected.
func (n *Node) Write(b Block, _ *struct{}) error {
	_, err := n.vol.WriteAt(b.Data, b.Offset)
	return err
}

// Read reads from the volume.
func (n *Node) Read(r Range, data *[]byte) error {
	*data = make([]byte, r.Length)
	_, err := n.vol.ReadAt(*data, r.Offset)
	return err
}

// Fill copies a file to the beginning of the volume and returns how many bytes it
// had to send; zeroes are not.
func (n *Node) Fill(path string, sent *int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := blockdev.AlignedBuffer(1 << 20)
	zeroes := make([]byte, len(buf))
	for off := int64(0); ; off += int64(len(buf)) {
		got, err := io.ReadFull(f, buf)
		if err == io.EOF {
			return n.vol.Flush(context.Background())
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return err
		}
		clear(buf[got:])
		chunk := buf[:min((int64(got)+blockSize-1)/blockSize*blockSize, int64(len(buf)))]
		if bytes.Equal(chunk, zeroes[:len(chunk)]) {
			err = n.vol.WriteZeroes(context.Background(), off, int64(len(chunk)))
		} else {
			_, err = n.vol.WriteAt(chunk, off)
			*sent += int64(len(chunk))
		}
		if err != nil {
			return err
		}
	}
}

// NextResync waits for the end of the next resync that was not reported yet, and
// until both nodes know that they are equal.
func (n *Node) NextResync(_ struct{}, done *Resync) error {
	*done = <-n.resyncs
	return n.res.WaitSync(context.Background())
}

// Status tells how things are.
func (n *Node) Status(_ struct{}, out *Status) error {
	st := n.res.Status()
	v := st.Volumes[0]
	*out = Status{Size: v.Size, Connected: v.State.Conn >= protocol.Connected, OutOfSync: v.OutOfSync, Proc: st.String()}
	if rs := v.Resync; rs != nil {
		out.Running, out.Percent, out.Rate, out.TimeLeft = true, rs.Percent(), rs.Average, rs.Finish
	}
	return st.Failed
}

// Close ends the node in order and leaves clean metadata.
func (n *Node) Close(struct{}, *struct{}) error {
	return errors.Join(n.res.Close(), n.tcp.Close(), n.disk.Close())
}

// stdio is the way to the parent.
type stdio struct {
	io.Reader
	io.WriteCloser
}

// nodeMain is the main function of a node process: it opens the node, says so, and
// does what the parent asks until the parent closes its end, or is gone.
func nodeMain(args []string) int {
	var cfg nodeConfig
	flags := flag.NewFlagSet(nodeCommand, flag.ExitOnError)
	flags.StringVar(&cfg.name, "name", "", "of this node")
	flags.StringVar(&cfg.peer, "peer", "", "name of the other one")
	flags.StringVar(&cfg.disk, "disk", "", "path")
	flags.StringVar(&cfg.local, "local", "", "host:port to listen on")
	flags.StringVar(&cfg.remote, "remote", "", "host:port of the peer")
	flags.BoolVar(&cfg.verbose, "v", false, "log to standard error")
	_ = flags.Parse(args) // exits by itself

	signal.Ignore(os.Interrupt) // Ctrl-C reaches the parent too, who ends us
	node, err := openNode(cfg)
	if err != nil {
		fmt.Fprintf(os.Stderr, "node %s: %v\n", cfg.name, err)
		return 1
	}
	server := rpc.NewServer()
	if err := server.Register(node); err != nil {
		fmt.Fprintf(os.Stderr, "node %s: %v\n", cfg.name, err)
		return 1
	}
	server.ServeConn(stdio{os.Stdin, os.Stdout})
	if err := node.res.Close(); err != nil { // again, unless the parent has vanished
		return 1
	}
	return 0
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transport_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/go-blockmirror/blockmirror/transport/transporttest"
)

// freePort returns an address of this machine that nobody listens on.
func freePort() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// connect forms a pair from both ends.
func connect(a, b transport.Transport) (pa, pb *transport.Pair) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var ea, eb error
	wg.Go(func() { pa, ea = a.Connect(ctx) })
	wg.Go(func() { pb, eb = b.Connect(ctx) })
	wg.Wait()
	if ea != nil || eb != nil {
		panic(fmt.Sprint(ea, eb))
	}
	return pa, pb
}

// Two nodes form a pair over TCP, as a node does with a kernel's DRBD.
func ExampleNewTCP() {
	alpha, beta := freePort(), freePort()
	onAlpha, err := transport.NewTCP(transport.TCPConfig{
		Local: alpha, Remote: beta,
		SocketCheckTimeout: 200 * time.Millisecond, // the default, 0.5 s, suits a kernel
	})
	if err != nil {
		panic(err)
	}
	onBeta, err := transport.NewTCP(transport.TCPConfig{
		Local: beta, Remote: alpha, SocketCheckTimeout: 200 * time.Millisecond,
	})
	if err != nil {
		panic(err)
	}
	pa, pb := connect(onAlpha, onBeta)
	defer pa.Close()
	defer pb.Close()

	fmt.Println("one resolver:", pa.Resolver != pb.Resolver)
	bufs := net.Buffers{[]byte("header "), []byte("payload")}
	if _, err := bufs.WriteTo(pa.Data); err != nil { // one writev
		panic(err)
	}
	got := make([]byte, 14)
	if _, err := io.ReadFull(pb.Data, got); err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", got)
	// Output:
	// one resolver: true
	// header payload
}

// Two blockmirror nodes connect many resources over one port each.
func ExampleListen() {
	ctx := context.Background()
	alpha, err := transport.Listen(ctx, "tcp", "127.0.0.1:0", transport.ListenerConfig{})
	if err != nil {
		panic(err)
	}
	defer alpha.Close()
	beta, err := transport.Listen(ctx, "tcp", "127.0.0.1:0", transport.ListenerConfig{})
	if err != nil {
		panic(err)
	}
	defer beta.Close()

	for _, name := range []string{"mail", "web"} {
		pa, pb := connect(alpha.Resource(name, beta.Addr().String()), beta.Resource(name, alpha.Addr().String()))
		fmt.Println(name, "connected")
		pa.Close()
		pb.Close()
	}
	// Output:
	// mail connected
	// web connected
}

// A transport of one's own: here the memory network with the real pairing rules.
func ExampleNew() {
	n := transporttest.NewNetwork(1)
	cfg := transport.PairingConfig{SocketCheckTimeout: 50 * time.Millisecond}
	pa, pb := connect(n.Dialer("alpha", "beta", cfg), n.Dialer("beta", "alpha", cfg))
	defer pa.Close()
	defer pb.Close()
	fmt.Println(pa.Resolver != pb.Resolver)
	// Output: true
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package nbd_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"github.com/go-blockmirror/blockmirror/examples/nbd"
)

// A server with one export, that lives until the program has had enough.
func Example() {
	server, err := nbd.NewServer(nbd.Config{})
	if err != nil {
		log.Fatal(err)
	}
	err = server.Add(nbd.Export{
		Name:    "scratch",
		Backend: nbd.NewMemory(1 << 30),
		Open:    func(context.Context) error { fmt.Println("the first client comes"); return nil },
		Close:   func() error { fmt.Println("the last client has gone"); return nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go server.Serve(listener)

	fmt.Println(server.Exports()) // now: nbdinfo nbd://HOST:PORT/scratch
	if err := server.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// [scratch]
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package transporttest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/go-blockmirror/blockmirror/transport"
	"github.com/go-blockmirror/blockmirror/transport/transporttest"
)

// The connection breaks in the middle of a packet, exactly where the test wants.
func ExamplePath_CutAfter() {
	n := transporttest.NewNetwork(1)
	defer n.Close()
	var a, b *transport.Pair
	var wg sync.WaitGroup
	wg.Go(func() { a, _ = n.Transport("alpha", "beta").Connect(context.Background()) })
	wg.Go(func() { b, _ = n.Transport("beta", "alpha").Connect(context.Background()) })
	wg.Wait()
	defer a.Close()
	defer b.Close()

	n.Path("alpha", "beta").CutAfter(5)
	sent, err := a.Data.Write([]byte("half a packet"))
	fmt.Println(sent, errors.Is(err, transporttest.ErrReset))

	buf := make([]byte, 100)
	got, _ := b.Data.Read(buf)
	fmt.Printf("%q\n", buf[:got])
	_, err = b.Data.Read(buf)
	fmt.Println(errors.Is(err, transporttest.ErrReset))
	// Output:
	// 5 true
	// "half "
	// true
}

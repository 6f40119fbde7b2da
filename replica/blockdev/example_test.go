// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package blockdev_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// A file as backing disk. The second Open finds it locked.
func ExampleCreate() {
	dir, err := os.MkdirTemp("", "blockdev")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "r0.img")

	disk, err := blockdev.Create(path, 1<<20, blockdev.Options{})
	if err != nil {
		panic(err)
	}
	defer disk.Close()
	buf := blockdev.AlignedBuffer(4096)
	copy(buf, "hello")
	if _, err := disk.WriteAt(buf, 8192); err != nil {
		panic(err)
	}
	if err := disk.Flush(); err != nil { // now it is durable
		panic(err)
	}
	fmt.Println(disk.Size(), "bytes")

	_, err = blockdev.Open(path, blockdev.Options{})
	fmt.Println("busy:", errors.Is(err, blockdev.ErrBusy))
	// Output:
	// 1048576 bytes
	// busy: true
}

// Several requests under way, and one that must come after them.
func ExampleQueue() {
	q := blockdev.NewQueue(blockdev.NewMemory(1<<20), 4)
	done := make(chan *blockdev.Op)
	var ops []*blockdev.Op
	for i := range 3 {
		ops = append(ops, &blockdev.Op{
			Kind: blockdev.OpWrite, Off: int64(i) * 4096, Buf: blockdev.AlignedBuffer(4096),
			Done: func(op *blockdev.Op) { done <- op },
		})
	}
	q.SubmitBatch(ops)
	for range ops {
		if op := <-done; op.Err != nil {
			panic(op.Err)
		}
	}
	// The three are complete, so this one's flush covers them.
	last := &blockdev.Op{
		Kind: blockdev.OpWrite, Off: 64 << 10, Buf: blockdev.AlignedBuffer(512),
		PreFlush: true, FUA: true,
	}
	q.Do(last)
	fmt.Println("commit record:", last.Err)
	if err := q.Close(); err != nil {
		panic(err)
	}
	// Output: commit record: <nil>
}

// A power cut may lose what was not flushed, and nothing else.
func ExampleFaulty_Crash() {
	mem := blockdev.NewMemory(1 << 20)
	disk := blockdev.NewFaulty(mem)
	if err := disk.VolatileCache(true); err != nil {
		panic(err)
	}
	sector := func(text string) []byte { return append([]byte(text), make([]byte, 512-len(text))...) }
	_, _ = disk.WriteAt(sector("flushed"), 0)
	_ = disk.Flush()
	_, _ = disk.WriteAt(sector("maybe"), 0)
	if err := disk.Crash(1); err != nil {
		panic(err)
	}
	_, err := disk.ReadAt(make([]byte, 512), 0)
	fmt.Println(errors.Is(err, blockdev.ErrPowerLost))

	after := string(mem.Bytes()[:5])
	fmt.Println(after == "flush" || after == "maybe")
	// Output:
	// true
	// true
}

// One write fails for want of space; the test sees what the program does about it.
func ExampleFaulty_Inject() {
	disk := blockdev.NewFaulty(blockdev.NewMemory(1 << 20))
	disk.Inject(blockdev.Fault{
		Kinds: []blockdev.OpKind{blockdev.OpWrite}, Skip: 1, Times: 1, Err: blockdev.ErrNoSpace,
	})
	for i := range 3 {
		_, err := disk.WriteAt(make([]byte, 512), int64(i)*512)
		fmt.Println(errors.Is(err, blockdev.ErrNoSpace))
	}
	// Output:
	// false
	// true
	// false
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

// createDisks makes a disk for each node, and the link between them.
func (s *story) createDisks(ctx context.Context) (err error) {
	s.report.say("A disk of %s in two processes, in %s\n", mib(s.opts.size), s.dir)
	for _, name := range []string{"alpha", "beta"} {
		if err := createDisk(s.disk(name), s.opts.size); err != nil {
			return err
		}
		if s.local[name], err = freeAddress(); err != nil {
			return err
		}
	}
	if s.link, err = newLink(s.local["alpha"], s.local["beta"]); err != nil {
		return err
	}
	s.report.done("two disks, with fresh DRBD metadata (v08, internal)")
	return nil
}

// fill lets alpha, alone, put an image on its volume: a disk before it gets a mirror.
func (s *story) fill(ctx context.Context) (err error) {
	if s.image, err = makeImage(ctx, s.opts.image, s.dir, s.imageSize()); err != nil {
		return err
	}
	if s.alpha, err = s.start(ctx, "alpha"); err != nil {
		return err
	}
	var sent int64
	if err := s.alpha.call(ctx, "Promote", true, &struct{}{}); err != nil {
		return err
	}
	if err := s.alpha.call(ctx, "Fill", s.image.path, &sent); err != nil {
		return err
	}
	st, err := s.alpha.status(ctx)
	if err != nil {
		return err
	}
	s.volume = st.Size
	if err := s.alpha.close(ctx); err != nil {
		return err
	}
	s.report.done("alpha alone is Primary by force, wrote %s: %s", mib(sent), s.image.what)
	return nil
}

// initialSync connects the nodes. The whole disk is copied, while alpha is Primary.
func (s *story) initialSync(ctx context.Context) (err error) {
	if s.alpha, err = s.start(ctx, "alpha"); err != nil {
		return err
	}
	if s.beta, err = s.start(ctx, "beta"); err != nil {
		return err
	}
	if err := s.both(ctx, "Connect"); err != nil {
		return err
	}
	if err := s.both(ctx, "WaitConnected"); err != nil {
		return err
	}
	if err := s.alpha.call(ctx, "Promote", false, &struct{}{}); err != nil {
		return err
	}
	s.report.done("connected: alpha is process %d, beta is process %d", s.alpha.cmd.Process.Pid, s.beta.cmd.Process.Pid)

	begin := time.Now()
	blocks, err := s.awaitResync(ctx, s.alpha, s.beta, true)
	if err != nil {
		return err
	}
	rate := float64(blocks*blockSize) / (1 << 20) / time.Since(begin).Seconds()
	s.report.done("initial sync of %d blocks of 4 KiB, %.0f MiB/s", blocks, rate)
	s.report.equal("blocks in the initial sync", s.volume/blockSize, blocks)
	return nil
}

// cutLink breaks the link in the middle of a packet while alpha writes, and lets it
// go on writing alone.
func (s *story) cutLink(ctx context.Context) error {
	begin := s.ledger.now()
	load := s.ledger.start(ctx, s.alpha, s.area(areaWhileCut))
	if err := load.wait(s.scaled(1000)); err != nil {
		return err
	}
	s.link.cutAfter(rand.Int64N(64 << 10))
	if err := s.alpha.waitFor(ctx, "the loss is noticed", func(st Status) bool { return !st.Connected }); err != nil {
		return err
	}
	alone := s.ledger.now()
	if err := load.wait(s.scaled(2000)); err != nil {
		return err
	}
	if err := load.stop(); err != nil {
		return err
	}
	s.report.done("link cut in the middle of %d writes; no write failed, %d blocks were written while apart",
		load.acked.Load(), s.ledger.since(alone))

	return s.reconnect(ctx, s.ledger.since(alone), s.ledger.since(begin))
}

// reconnect mends the link. Only the blocks that changed meanwhile travel: at least
// those that were written alone, at most all of this chapter.
func (s *story) reconnect(ctx context.Context, least, most int64) error {
	st, err := s.alpha.status(ctx)
	if err != nil {
		return err
	}
	before := s.link.passed()
	s.link.mend()
	blocks, err := s.awaitResync(ctx, s.alpha, s.beta, false)
	if err != nil {
		return err
	}
	bytes := s.link.passed() - before
	s.report.done("link mended, resync of %d of %d blocks, %s over the link", blocks, s.volume/blockSize, mib(bytes))
	s.report.between("blocks in the resync after the cut", least, most, blocks)
	s.report.equal("the same, as alpha's bitmap had it", st.OutOfSync/blockSize, blocks)
	s.report.between("bytes over the link", blocks*blockSize, blocks*blockSize*11/10+64<<10, bytes)
	return nil
}

// killPrimary kills alpha while it writes. Beta takes over, and has to have every
// write that alpha had acknowledged.
func (s *story) killPrimary(ctx context.Context) error {
	load := s.ledger.start(ctx, s.alpha, s.area(areaWhileKilled))
	if err := load.wait(s.scaled(1500)); err != nil {
		return err
	}
	s.alpha.kill()
	_ = load.stop() // the last writes were never answered
	s.report.done("alpha killed (SIGKILL) after %d acknowledged writes, %d were not answered", load.acked.Load(), s.ledger.unanswered())

	if err := s.beta.call(ctx, "Promote", false, &struct{}{}); err != nil {
		return err
	}
	blocks, wrong, err := s.ledger.verify(s.beta.reader(ctx))
	if err != nil {
		return err
	}
	s.report.done("beta promoted, every block that was ever acknowledged read back: %d of %d", blocks-wrong, blocks)
	s.report.equal("acknowledged blocks lost", int64(0), wrong)
	return nil
}

// rejoin lets beta write alone, and brings alpha back. Its activity log tells where
// it may have been writing when it died: that, and what beta wrote, is copied.
func (s *story) rejoin(ctx context.Context) (err error) {
	then := s.ledger.now()
	load := s.ledger.start(ctx, s.beta, s.area(areaWhileAlone))
	if err := load.wait(s.scaled(500)); err != nil {
		return err
	}
	if err := load.stop(); err != nil {
		return err
	}
	alone := s.ledger.since(then)

	if s.alpha, err = s.start(ctx, "alpha"); err != nil {
		return err
	}
	st, err := s.alpha.status(ctx)
	if err != nil {
		return err
	}
	marked := st.OutOfSync / blockSize
	s.report.done("beta wrote %d blocks alone; alpha is back, its activity log marks %d blocks", alone, marked)
	if err := s.alpha.do(ctx, "Connect"); err != nil {
		return err
	}
	blocks, err := s.awaitResync(ctx, s.beta, s.alpha, false)
	if err != nil {
		return err
	}
	s.report.done("resync of %d of %d blocks, from beta to alpha", blocks, s.volume/blockSize)
	s.report.between("blocks marked by the activity log", 1, s.hotBlocks(), marked)
	s.report.between("blocks in the resync after the crash", max(marked, alone), marked+alone+writers, blocks)
	return nil
}

// hotBlocks is how many blocks lie in the extents of 4 MiB that alpha wrote to.
func (s *story) hotBlocks() int64 {
	const extent = 4 << 20
	first := s.area(areaWhileCut).offset / extent
	end := (s.area(areaWhileAlone).offset + extent - 1) / extent
	return (end - first) * extent / blockSize
}

// switchOver makes alpha Primary again, in order, and closes both nodes.
func (s *story) switchOver(ctx context.Context) error {
	if err := s.beta.do(ctx, "Demote"); err != nil {
		return err
	}
	if err := s.alpha.call(ctx, "Promote", false, &struct{}{}); err != nil {
		return err
	}
	blocks, wrong, err := s.ledger.verify(s.alpha.reader(ctx))
	if err != nil {
		return err
	}
	s.report.done("beta demoted, alpha promoted, %d of %d blocks read back there", blocks-wrong, blocks)
	s.report.equal("blocks wrong on alpha", int64(0), wrong)
	if err := s.alpha.do(ctx, "Demote"); err != nil {
		return err
	}
	if err := s.alpha.close(ctx); err != nil {
		return err
	}
	if err := s.beta.close(ctx); err != nil {
		return err
	}
	s.report.done("alpha demoted, both nodes closed")
	return nil
}

// compare looks at the disks without the nodes: with each other, with the image, and
// with the ledger.
func (s *story) compare(context.Context) error {
	alpha, size, err := openDisk(s.disk("alpha"))
	if err != nil {
		return err
	}
	defer alpha.Close()
	beta, sizeB, err := openDisk(s.disk("beta"))
	if err != nil {
		return err
	}
	defer beta.Close()
	s.report.equal("size of the volume on both disks", size, sizeB)
	blocks, differ, err := compareBlocks(alpha, beta, size)
	if err != nil {
		return err
	}
	s.report.equal(fmt.Sprintf("blocks that differ, of %d", blocks), int64(0), differ)

	file, err := os.Open(s.image.path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	whole := (info.Size() + blockSize - 1) / blockSize * blockSize
	imageBlocks, imageDiffer, err := compareBlocks(sectored{file}, beta, whole)
	if err != nil {
		return err
	}
	s.report.equal(fmt.Sprintf("blocks of the image that differ, of %d", imageBlocks), int64(0), imageDiffer)
	written, wrong, err := s.ledger.verify(beta)
	if err != nil {
		return err
	}
	s.report.equal(fmt.Sprintf("written blocks that differ, of %d", written), int64(0), wrong)
	s.report.done("disks compared: %d blocks, %d differ", blocks, differ)
	return nil
}

// askRealTools lets DRBD's tool and the file system's look at the disks, where they
// are installed.
func (s *story) askRealTools(ctx context.Context) error {
	if e2fsck, err := findTool("e2fsck"); err == nil && s.image.ext4 {
		for _, name := range []string{"alpha", "beta"} {
			got := checkFileSystem(ctx, e2fsck, s.disk(name))
			s.report.equal("e2fsck of "+name, "clean", got)
		}
		s.report.done("e2fsck looked at the file system on both disks")
	}
	drbdmeta, err := findTool("drbdmeta")
	if err != nil {
		s.report.say("           drbdmeta is not installed, or it would read the metadata now")
		return nil
	}
	alpha, err := dumpMetadata(ctx, drbdmeta, s.disk("alpha"))
	if err != nil {
		return err
	}
	beta, err := dumpMetadata(ctx, drbdmeta, s.disk("beta"))
	if err != nil {
		return err
	}
	s.report.equal("data generation by drbdmeta", alpha, beta)
	s.report.done("drbdmeta reads the metadata of both disks, nothing to apply")
	return nil
}

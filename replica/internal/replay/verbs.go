// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"slices"

	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica/internal/core"
)

// What the test asked of the node.

// command begins an administrator's command.
func (p *player) command(e *Entry) error {
	cmd, vol := &core.Command{}, e.Volume
	p.cmds[e.ID] = cmd
	c := p.core
	run, ok := map[string]func(){
		"connect":           func() { c.Connect(cmd, 0, core.ConnectOptions{}) },
		"connect-discard":   func() { c.Connect(cmd, 0, core.ConnectOptions{DiscardMyData: true}) },
		"connect-tentative": func() { c.Connect(cmd, 0, core.ConnectOptions{Tentative: true}) },
		"disconnect":        func() { c.Disconnect(cmd, 0, false) },
		"disconnect-force":  func() { c.Disconnect(cmd, 0, true) },
		"promote":           func() { c.Promote(cmd, false) },
		"promote-force":     func() { c.Promote(cmd, true) },
		"demote":            func() { c.Demote(cmd) },
		"shutdown":          func() { c.Shutdown(cmd) },
		"detach":            func() { c.Detach(cmd, vol, false) },
		"invalidate":        func() { c.Invalidate(cmd, vol) },
		"invalidate-remote": func() { c.InvalidateRemote(cmd, vol) },
		"clear-bitmap":      func() { c.NewCurrentUUID(cmd, vol, true) },
		"verify":            func() { c.Verify(cmd, vol, core.VerifyOptions{Start: e.Off, Stop: e.Len}) },
		"verify-resume":     func() { c.Verify(cmd, vol, core.VerifyOptions{Resume: true, Stop: e.Len}) },
		"pause-sync":        func() { c.PauseSync(cmd, vol, true) },
		"resume-sync":       func() { c.PauseSync(cmd, vol, false) },
	}[e.Name]
	switch {
	case ok:
		p.event(run)
		return nil
	case e.Name == "attach" && len(e.Disks) == 1:
		return p.attach(vol, &e.Disks[0], cmd)
	}
	return fmt.Errorf("%w: command %q", ErrRecording, e.Name)
}

// submit begins a request of the application, in the pieces in which the shell would.
func (p *player) submit(e *Entry) error {
	kinds := map[string]core.IOKind{
		"read": core.IORead, "write": core.IOWrite, "flush": core.IOFlush, "discard": core.IODiscard, "zero": core.IOZero,
	}
	kind, ok := kinds[e.Name]
	if !ok {
		return fmt.Errorf("%w: request %q", ErrRecording, e.Name)
	}
	limit := int64(core.MaxIOBytes)
	if kind == core.IODiscard || kind == core.IOZero {
		limit = core.MaxDiscardBytes
	}
	buf := make([]byte, 0)
	var err error
	switch kind {
	case core.IOWrite:
		buf, err = e.Data.Bytes(e.Len)
	case core.IORead:
		buf = make([]byte, e.Len)
	}
	if err != nil || kind == core.IOWrite && int64(len(buf)) != e.Len {
		return fmt.Errorf("%w: %d bytes to write: %w", ErrRecording, len(buf), err)
	}
	own := &playedIO{}
	p.ios[e.ID] = own
	for done := int64(0); done < e.Len || done == 0; {
		n := min(e.Len-done, limit)
		if e.Len > limit {
			n = min(e.Len-done, limit-(e.Off+done)%limit)
		}
		io := &core.IO{Kind: kind, Volume: e.Volume, Off: e.Off + done, Len: n, FUA: e.FUA}
		if len(buf) > 0 {
			io.Buf = buf[done : done+n]
		}
		own.left++
		p.owner[io] = own
		p.event(func() { p.core.Submit(io) })
		if done += n; n == 0 {
			break
		}
	}
	return p.err
}

// returned checks that a command or request ends as it ended.
func (p *player) returned(e *Entry) error {
	ended, failed := func() bool { return true }, func() bool { return e.Failed }
	if cmd := p.cmds[e.ID]; cmd != nil {
		ended = func() bool { return p.ended[cmd] }
		failed = func() bool { return cmd.Err != nil }
	} else if own := p.ios[e.ID]; own != nil {
		ended = func() bool { return own.left == 0 }
		failed = func() bool { return own.err != nil }
	}
	if err := p.wait(ended, "the end of the request"); err != nil {
		return err
	}
	if p.strict() && failed() != e.Failed {
		return fmt.Errorf("%w: the request failed: %v, it was recorded that it failed: %v\nnow: %s", ErrDiverged, failed(), e.Failed, p.describe())
	}
	return nil
}

// connect waits until the core looks for its peer, and gives it a connection.
func (p *player) connect(at int, e *Entry) error {
	if err := p.wait(func() bool { return p.gen != 0 && p.connected == 0 && p.looking() }, "the node to look for its peer"); err != nil {
		return err
	}
	if !p.looking() {
		return nil
	}
	if err := p.leftOver(); err != nil {
		return err
	}
	p.pair = newPair(p.rec, at, e.Pair)
	if p.overlap {
		p.pair.epochs = &epochs{acks: p.acks, open: map[protocol.BlockID]bool{}}
	}
	p.connected = p.gen
	p.event(func() { p.core.Connected(0, p.gen, e.Resolver) })
	return p.err
}

func (p *player) looking() bool {
	return p.core.Snapshot().Peers[0].Conn == protocol.WFConnection
}

// receive delivers a packet of the kernel, once the core has sent what came before.
func (p *player) receive(e *Entry) error {
	if p.pair == nil || e.Pair != p.pair.number {
		return nil
	}
	if p.strict() {
		if err := p.wait(p.matched, "what the node sent before this packet came"); err != nil {
			return err
		}
	}
	data, err := e.Data.Bytes(protocol.MaxBlockBytes)
	if err != nil {
		return err
	}
	packets := [][]byte{slices.Concat(e.Packet, data)}
	if !p.strict() {
		packets = p.opt.Mutate(p.heard, packets[0])
	}
	p.heard++
	for _, b := range packets {
		if err := p.deliver(e.Stream, b); err != nil {
			return err
		}
	}
	return p.err
}

// deliver hands one packet to the core, as the shell would.
func (p *player) deliver(st protocol.Stream, b []byte) error {
	if p.connected == 0 || p.connected != p.gen || st == protocol.MetaStream && !p.readMeta {
		return nil // the node does not listen any more
	}
	s := p.core.Session(0)
	size := protocol.HeaderSize(s.Version)
	if len(b) < size {
		p.lost(st, protocol.ErrLength)
		return nil
	}
	h, err := protocol.DecodeHeader(b[:size], s.Version)
	if err == nil {
		err = s.CheckHeader(st, h)
	}
	if err == nil && int(h.Length) != len(b)-size {
		err = protocol.ErrLength // a peer that stops in the middle, or begins another packet there
	}
	if err != nil {
		if p.strict() {
			return fmt.Errorf("%w: a packet of the kernel is refused: %v: %w", ErrDiverged, h.Command, err)
		}
		p.lost(st, err)
		return nil
	}
	body := b[size:]
	front := s.PayloadOffset(h)
	if p.strict() {
		p.pair.translate(h, body[:front])
		if p.pair.answered(h) {
			return nil
		}
	}
	var payload *core.Buffer
	if front < len(body) {
		payload = p.lend(len(body) - front)
		copy(payload.Data, body[front:])
	}
	gen := p.gen
	p.event(func() { p.core.Receive(0, gen, st, h, body[:front:front], payload) })
	return p.err
}

func (p *player) lost(st protocol.Stream, err error) {
	if gen := p.gen; p.connected == gen && gen != 0 {
		p.event(func() { p.core.Lost(0, gen, st, err, false) })
	}
}

// expect notes a packet that the core has to send, or has sent.
func (p *player) expect(e *Entry) error {
	if p.pair == nil || e.Pair != p.pair.number || !p.strict() {
		return nil
	}
	return p.pair.expect(e)
}

// leftOver checks that the core has sent nothing that the node had not.
func (p *player) leftOver() error {
	if p.pair == nil || !p.strict() || p.pair.torn {
		return nil
	}
	if extra := p.pair.extra(); extra != "" {
		return fmt.Errorf("%w: it has also sent %s", ErrDiverged, extra)
	}
	return nil
}

// status compares the state with that of the node.
func (p *player) status(e *Entry) error {
	if !p.strict() {
		return nil
	}
	if err := p.wait(p.matched, "the rest of what the node sent"); err != nil {
		return err
	}
	same := func() bool { return slices.Equal(StatusOf(p.core.Snapshot()), e.Volumes) }
	if err := p.wait(same, fmt.Sprintf("the state %v", e.Volumes)); err != nil {
		return err
	}
	return p.leftOver()
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"log/slog"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// VerifyOptions are those of verify: sectors with DRBD's suffixes, or empty.
type VerifyOptions struct{ Start, Stop string }

// Verify begins to compare a volume with the peer's copy (verify), and returns when that
// has begun, or was refused. It goes on in the background; what it has found is in the
// log. While it runs, another one changes nothing, except that with Stop "0" it ends.
func (n *Node) Verify(ctx context.Context, minor string, o VerifyOptions) error {
	res, v, err := n.opened(minor)
	if err != nil {
		return err
	}
	sectors := sized("0", 0, 1<<41, 512)
	opts := []replica.VerifyOption{}
	for text, option := range map[*string]func(int64) replica.VerifyOption{&o.Start: replica.VerifyFrom, &o.Stop: replica.VerifyTo} {
		if *text == "" {
			continue
		}
		s, err := sectors.parse(*text)
		if err != nil {
			return usage("verify: %v", err)
		}
		opts = append(opts, option(s*metadata.SectorSize))
	}
	if st, _ := v.Status(); st.State.Conn == protocol.VerifyS && o.Stop != "" && o.Stop != "0" {
		return stateError(protocol.CodeResyncRunning, "a running verify can be ended with --stop 0")
	} else if st.State.Conn == protocol.VerifyS {
		if o.Stop == "0" {
			v.r.endVerify()
		}
		return nil
	}
	w := n.WatchResource(v.r.name)
	defer w.Close()
	done := v.r.startVerify(res, v, opts)
	for {
		select {
		case err := <-done:
			return translate(err)
		case <-ctx.Done():
			return ctx.Err()
		case <-w.C():
			if st, _ := v.Status(); st.State.Conn == protocol.VerifyS {
				return nil
			}
		}
	}
}

// startVerify runs a verify in the background. What it ends with comes from the channel.
func (r *Resource) startVerify(res *replica.Resource, v *Volume, opts []replica.VerifyOption) <-chan error {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	r.mu.Lock()
	r.verifies = append(r.verifies, stop)
	r.mu.Unlock()
	r.background.Go(func() {
		defer stop()
		report, err := res.Volume(v.id).Verify(ctx, opts...)
		level := slog.LevelInfo
		if report.Different > 0 || err != nil {
			level = slog.LevelWarn
		}
		r.node.log.Log(context.Background(), level, "verify ended", "resource", r.name, "volume", v.id, "complete", report.Complete,
			"from", report.From, "to", report.To, "different", report.Different, "unknown", report.Unknown, "err", err)
		done <- err
	})
	return done
}

// endVerify ends the verifies of a resource.
func (r *Resource) endVerify() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, stop := range r.verifies {
		stop()
	}
	r.verifies = nil
}

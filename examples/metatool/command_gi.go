// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import "io"

func (t *tool) getGI() error {
	t.ignoreArguments(0)
	node, err := t.nodeID("get-gi")
	if err != nil {
		return err
	}
	return t.view(func(f *found) error {
		line, err := f.sb.GI(node)
		if err != nil {
			return err
		}
		t.say("%s", line)
		return nil
	})
}

func (t *tool) showGI() error {
	t.ignoreArguments(0)
	node, err := t.nodeID("show-gi")
	if err != nil {
		return err
	}
	return t.view(func(f *found) error {
		text, err := f.sb.ShowGI(node)
		if err != nil {
			return err
		}
		_, err = io.WriteString(t.stdout, text)
		return err
	})
}

// setGI changes generation identifiers and flags. Declining is no failure.
func (t *tool) setGI() error {
	node, err := t.nodeID("set-gi")
	if err != nil {
		return err
	}
	arg, err := t.argument()
	if err != nil {
		return err
	}
	return t.view(func(f *found) error {
		before, err := f.sb.GI(node)
		if err != nil {
			return err
		}
		if err := f.sb.SetGI(node, arg); err != nil {
			return err
		}
		after, err := f.sb.GI(node)
		if err != nil {
			return err
		}
		t.say("previously %s", before)
		t.say("set GI to  %s", after)
		if !t.confirm("Write new GI to disk?") {
			t.say("Operation canceled.")
			return nil
		}
		return t.write(f)
	})
}

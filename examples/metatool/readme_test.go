// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"
)

// TestReadme runs the commands of the README's last section and compares what
// they print.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, ok := strings.Cut(string(readme), "## Five minutes")
	if !ok {
		t.Fatal("the section is gone")
	}
	b := newBench(t)
	var want, got []string
	ran := 0
	for line := range strings.Lines(script) {
		line, inScript := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		command, isCommand := strings.CutPrefix(line, "$ ")
		if !inScript {
			continue
		}
		if !isCommand {
			want = append(want, line)
			continue
		}
		got = append(got, b.readmeStep(command, &ran)...)
	}
	if ran < 6 {
		t.Errorf("only %d commands", ran)
	}
	// wipe-md prints two lines that the README leaves out.
	text := strings.Join(got, "\n")
	for _, line := range want {
		before, after, ok := strings.Cut(text, line)
		if !ok {
			t.Fatalf("%q is not in the output, behind\n%s", line, before)
		}
		text = after
	}
}

// readmeStep runs one command and returns the lines it prints.
func (b *bench) readmeStep(command string, ran *int) []string {
	command = strings.ReplaceAll(command, "disk.", "@disk.")
	switch words := strings.Fields(command); words[0] {
	case "truncate":
		size := map[string]int64{"1G": 1 << 30, "2G": 2 << 30}[words[2]]
		if _, err := os.Stat(b.file("disk.img")); err != nil {
			b.blank("disk.img", size)
		}
		b.resize("disk.img", size)
	case "metatool":
		*ran++
		line, file, toFile := strings.Cut(strings.TrimPrefix(command, "metatool "), " > @")
		r := b.want(line, 0)
		if toFile {
			b.write(file, []byte(r.out), 0)
			return nil
		}
		return strings.Split(strings.TrimSpace(r.out), "\n")
	}
	return nil
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Load reads a file, and those it includes. Names of these are relative to the folder
// of the file that includes them; a pattern that fits nothing includes nothing. The
// error has everything that is wrong, each an *Error.
func Load(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parse(path, string(text), readPattern)
}

// Parse is Load for a text that is there already; name appears in positions. The text
// includes nothing: an include is an error that wraps ErrInclude.
func Parse(name, text string) (*Config, error) {
	return parse(name, text, nil)
}

// source is a file and what is in it.
type source struct{ name, text string }

// readPattern returns the files that a pattern fits, sorted by name.
func readPattern(from, pattern string) ([]source, error) {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(from), pattern)
	}
	names := []string{pattern}
	if strings.ContainsAny(pattern, "*?[") {
		var err error
		if names, err = filepath.Glob(pattern); err != nil {
			return nil, err
		}
		slices.Sort(names)
	}
	list := make([]source, 0, len(names))
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		list = append(list, source{name, string(text)})
	}
	return list, nil
}

// parser gathers what the files of a configuration say.
type parser struct {
	config  *Config
	include func(from, pattern string) ([]source, error)
	open    []string // the files that include each other at the moment
	files   int
	errs    errorList
}

func parse(name, text string, include func(from, pattern string) ([]source, error)) (*Config, error) {
	p := &parser{config: &Config{File: name}, include: include}
	p.file(name, text)
	if err := p.errs.err(); err != nil {
		return nil, err
	}
	for _, r := range p.config.Resources {
		p.checkResource(r)
	}
	p.checkResyncAfter()
	p.checkConflicts()
	if err := p.errs.err(); err != nil {
		return nil, err
	}
	return p.config, nil
}

// file reads the statements at the top level.
func (p *parser) file(name, text string) {
	p.files++
	p.open = append(p.open, name)
	defer func() { p.open = p.open[:len(p.open)-1] }()
	list, err := scan(name, text)
	p.errs.add(err)
	for i := range list {
		p.top(&list[i])
	}
}

func (p *parser) top(st *statement) {
	switch st.name() {
	case "include":
		p.includeFiles(st)
	case "global":
		if p.block(st, 0) {
			p.once(&p.config.hasGlobal, st)
			p.section("global", st, &p.config.Global, nil)
		}
	case "common":
		if p.block(st, 0) {
			p.once(&p.config.hasCommon, st)
			p.common(st)
		}
	case "resource":
		if p.block(st, 1) {
			p.resource(st)
		}
	default:
		p.errs.at(st.pos(), ErrInvalid, "there is no section %s; there are global, common, resource, skip and include", st.name())
	}
}

// includeFiles reads other files in the place of an include.
func (p *parser) includeFiles(st *statement) {
	if st.hasBlock || len(st.args()) != 1 {
		p.errs.at(st.pos(), ErrSyntax, "include is followed by one name in double quotes and a semicolon")
		return
	}
	pattern := st.args()[0]
	if p.include == nil {
		p.errs.at(pattern.pos, ErrInclude, "%s: this text stands alone: use Load", pattern.text)
		return
	}
	files, err := p.include(st.pos().File, pattern.text)
	if err != nil {
		p.errs.at(pattern.pos, ErrInclude, "%v", err)
	}
	for _, f := range files {
		switch {
		case slices.Contains(p.open, f.name):
			p.errs.at(pattern.pos, ErrInclude, "%s includes itself", f.name)
		case p.files >= maxFiles || len(p.open) >= 64:
			p.errs.at(pattern.pos, ErrInclude, "more than %d files", maxFiles)
			return
		default:
			p.file(f.name, f.text)
		}
	}
}

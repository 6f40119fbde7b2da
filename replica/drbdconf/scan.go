// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package drbdconf

import (
	"fmt"
	"strings"
)

// Limits on what is read, far above what anybody writes.
const (
	maxFile  = 16 << 20 // bytes
	maxDepth = 8        // of braces
	maxFiles = 4096
)

// word is one word of a statement.
type word struct {
	pos    Pos
	text   string
	quoted bool
}

// statement is what drbd.conf consists of: words, and then a semicolon or a block.
type statement struct {
	words    []word
	block    []statement
	hasBlock bool
}

func (s *statement) pos() Pos { return s.words[0].pos }

func (s *statement) name() string { return s.words[0].text }

// args returns the words after the first.
func (s *statement) args() []word { return s.words[1:] }

// scanner goes through the bytes of a file.
type scanner struct {
	text string
	at   int
	pos  Pos
}

// scan takes a file apart into statements. It stops at the first error.
func scan(file, text string) ([]statement, error) {
	s := &scanner{text: text, pos: Pos{File: file, Line: 1, Column: 1}}
	if len(text) > maxFile {
		return nil, errorAt(s.pos, ErrSyntax, "the file has %d bytes, at most %d are read", len(text), maxFile)
	}
	return s.statements(0)
}

// statements reads up to the brace that closes, or at depth 0 to the end.
func (s *scanner) statements(depth int) ([]statement, error) {
	var list []statement
	for {
		s.blank()
		switch {
		case s.at == len(s.text) && depth == 0:
			return list, nil
		case s.at == len(s.text):
			return nil, s.fail("the file ends, a } is missing")
		case s.text[s.at] == '}' && depth == 0:
			return nil, s.fail("a } that closes nothing")
		case s.text[s.at] == '}':
			s.step()
			return list, nil
		}
		st, err := s.statement(depth)
		if err != nil {
			return nil, err
		}
		if st.words[0].text == "skip" && !st.words[0].quoted {
			continue
		}
		list = append(list, st)
	}
}

// statement reads one statement. That of skip has no block: it is skipped.
func (s *scanner) statement(depth int) (statement, error) {
	var st statement
	for {
		s.blank()
		if s.at == len(s.text) {
			return st, s.fail("the file ends, a ; is missing")
		}
		switch c := s.text[s.at]; c {
		case ';', '{', '}':
			switch {
			case c == '}':
				return st, s.fail("a ; is missing before }")
			case len(st.words) == 0:
				return st, s.fail("%c without a word before it", c)
			}
			s.step()
			if c == ';' {
				return st, nil
			}
			st.hasBlock = true
			if st.words[0].text == "skip" && !st.words[0].quoted {
				return st, s.skip()
			}
			if depth == maxDepth {
				return st, s.fail("more than %d braces in one another", maxDepth)
			}
			var err error
			st.block, err = s.statements(depth + 1)
			return st, err
		}
		w, err := s.word()
		if err != nil {
			return st, err
		}
		st.words = append(st.words, w)
	}
}

// skip reads over everything up to the brace that closes.
func (s *scanner) skip() error {
	for open := 1; open > 0; {
		s.blank()
		if s.at == len(s.text) {
			return s.fail("the file ends, a } is missing behind skip")
		}
		switch s.text[s.at] {
		case '{':
			open++
			s.step()
		case '}':
			open--
			s.step()
		case ';':
			s.step()
		default:
			if _, err := s.word(); err != nil {
				return err
			}
		}
	}
	return nil
}

// blank skips white space and comments.
func (s *scanner) blank() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\r', '\n', '\f', '\v':
			s.step()
		case '#':
			for s.at < len(s.text) && s.text[s.at] != '\n' {
				s.step()
			}
		default:
			return
		}
	}
}

// word reads a word, quoted or not.
func (s *scanner) word() (word, error) {
	w := word{pos: s.pos}
	if s.text[s.at] == '"' {
		text, err := s.quoted()
		w.text, w.quoted = text, true
		return w, err
	}
	begin := s.at
	for s.at < len(s.text) && !strings.ContainsRune(" \t\r\n\f\v{};#\"", rune(s.text[s.at])) {
		if c := s.text[s.at]; c < ' ' || c >= 0x7f || c == '\'' || c == '`' || c == '\\' {
			return w, s.fail("the character %q must stand in double quotes", c)
		}
		s.step()
	}
	w.text = s.text[begin:s.at]
	return w, nil
}

// quoted reads a quoted word. A backslash takes the next character as it is.
func (s *scanner) quoted() (string, error) {
	begin := *s
	s.step()
	var b strings.Builder
	for s.at < len(s.text) {
		c := s.text[s.at]
		s.step()
		switch c {
		case '"':
			return b.String(), nil
		case '\n':
			return "", begin.fail("a quoted word ends on its line")
		case '\\':
			if s.at < len(s.text) && s.text[s.at] != '\n' {
				b.WriteByte(s.text[s.at])
				s.step()
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", begin.fail("a quoted word does not end")
}

func (s *scanner) step() {
	if s.text[s.at] == '\n' {
		s.pos.Line, s.pos.Column = s.pos.Line+1, 0
	}
	s.pos.Column++
	s.at++
}

func (s *scanner) fail(format string, args ...any) error {
	return errorAt(s.pos, ErrSyntax, "%s", fmt.Sprintf(format, args...))
}

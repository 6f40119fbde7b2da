// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
)

// tokenKind is what the lexer of the text dump tells apart (spec: on-disk 7.3).
type tokenKind uint8

const (
	tokenEOF    tokenKind = iota
	tokenPunct            // one of { } ; [ ]
	tokenNumber           // -?[0-9]{1,19}
	tokenHex8             // 0x and exactly 8 digits
	tokenHex16            // 0x and exactly 16 digits
	tokenString           // "1 to 20 characters", without the quotes
	tokenWord             // a keyword
)

// maxTokenBytes bounds a token: longer ones are errors, so nothing grows with
// hostile input.
const maxTokenBytes = 64

// maxStringBytes is the longest quoted string.
const maxStringBytes = 20

type token struct {
	kind tokenKind
	text string
	hex  uint64 // value of tokenHex8 and tokenHex16
}

// dumpLexer splits a text dump into tokens.
type dumpLexer struct {
	r    *bufio.Reader
	line int // from 1
	buf  [maxTokenBytes]byte
}

// next returns the next token. Its errors are a *DumpError or the reader's.
func (x *dumpLexer) next() (token, error) {
	c, err := x.skipBlank()
	if err != nil || c == 0 {
		return token{}, err
	}
	switch {
	case c == '{' || c == '}' || c == ';' || c == '[' || c == ']':
		return token{kind: tokenPunct, text: string(c)}, nil
	case c == '"':
		return x.quoted()
	case isWordByte(c):
		return x.word(c)
	}
	return token{}, x.errorf("invalid character %q", c)
}

// skipBlank skips white space and comments and returns the first other byte, 0 at
// the end of the file.
func (x *dumpLexer) skipBlank() (byte, error) {
	inComment := false
	for {
		c, err := x.r.ReadByte()
		if err == io.EOF {
			return 0, nil
		}
		if err != nil {
			return 0, fmt.Errorf("metadata: read dump: %w", err)
		}
		switch {
		case c == '\n':
			x.line++
			inComment = false
		case inComment || c == ' ' || c == '\t' || c == '\r':
		case c == '#':
			inComment = true
		case c == 0:
			return 0, x.errorf("invalid character %q", c)
		default:
			return c, nil
		}
	}
}

func (x *dumpLexer) quoted() (token, error) {
	n := 0
	for ; n <= maxStringBytes; n++ {
		c, err := x.r.ReadByte()
		if err != nil && err != io.EOF {
			return token{}, fmt.Errorf("metadata: read dump: %w", err)
		}
		if err == nil && c == '"' && n > 0 {
			return token{kind: tokenString, text: string(x.buf[:n])}, nil
		}
		if err != nil || c == '"' || c == '\n' {
			break
		}
		x.buf[n] = c
	}
	return token{}, x.errorf("invalid string %q: 1 to %d characters in quotes are allowed", x.buf[:min(n, maxStringBytes)], maxStringBytes)
}

func isWordByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_' || c == '\'' || c == '.'
}

// word reads a number or a word that begins with c.
func (x *dumpLexer) word(c byte) (token, error) {
	x.buf[0] = c
	n := 1
	for {
		c, err := x.r.ReadByte()
		if err == io.EOF {
			break
		}
		if err != nil {
			return token{}, fmt.Errorf("metadata: read dump: %w", err)
		}
		if !isWordByte(c) {
			_ = x.r.UnreadByte() // cannot fail after ReadByte
			break
		}
		if n == len(x.buf) {
			return token{}, x.errorf("word too long: %s...", x.buf[:])
		}
		x.buf[n] = c
		n++
	}
	return x.classify(string(x.buf[:n]))
}

// classify decides what a run of word bytes is.
func (x *dumpLexer) classify(s string) (token, error) {
	if len(s) > 2 && s[:2] == "0x" {
		v, err := strconv.ParseUint(s[2:], 16, 64)
		switch {
		case err != nil || (len(s) != 10 && len(s) != 18):
			return token{}, x.errorf("invalid hexadecimal number %s: 8 or 16 digits are needed", s)
		case len(s) == 10:
			return token{kind: tokenHex8, text: s, hex: v}, nil
		}
		return token{kind: tokenHex16, text: s, hex: v}, nil
	}
	if digits := s[0] == '-' || s[0] >= '0' && s[0] <= '9'; digits {
		if _, err := strconv.ParseInt(s, 10, 64); err != nil || s[0] == '+' {
			return token{}, x.errorf("invalid number %s", s)
		}
		return token{kind: tokenNumber, text: s}, nil
	}
	return token{kind: tokenWord, text: s}, nil
}

// DumpError is a text that is no dump.
type DumpError struct {
	Line int    // from 1
	Msg  string // what is wrong
}

// Error returns the line and what is wrong there.
func (e *DumpError) Error() string {
	return "metadata: dump, line " + strconv.Itoa(e.Line) + ": " + e.Msg
}

func (x *dumpLexer) errorf(format string, args ...any) error {
	return &DumpError{Line: x.line, Msg: fmt.Sprintf(format, args...)}
}

// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A scenario is a text file: one command per line, words separated by spaces, # begins
// a comment. The first comment line is the title. `repeat N VAR` ... `end` repeats lines
// with $VAR = 0, 1, ...; a word may be a sum of products of numbers with units, as
// 1M+$i*4K. A comment "kernel: P S" says which of the nodes the Linux kernel's DRBD can be, and
// "kernel: S; WHY" why not the other one, or "kernel: none; WHY".
type script struct {
	name, title string
	kernel      []string // "P", "S"
	why         string
	lines       []line
}

// line is a command, or a loop with a body.
type line struct {
	number int
	words  []string
	body   []line
}

func (l line) String() string {
	return fmt.Sprintf("line %d: %s", l.number, strings.Join(l.words, " "))
}

func readScript(path, name string) (*script, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := &script{name: name}
	stack := [][]line{nil}
	in := bufio.NewScanner(f)
	for n := 1; in.Scan(); n++ {
		text, comment, _ := strings.Cut(in.Text(), "#")
		if s.title == "" {
			s.title = strings.TrimSpace(comment)
		}
		if roles, ok := strings.CutPrefix(strings.TrimSpace(comment), "kernel: "); ok {
			roles, s.why, _ = strings.Cut(roles, "; ")
			if roles != "none" {
				s.kernel = strings.Fields(roles)
			}
		}
		words := strings.Fields(text)
		if len(words) == 0 {
			continue
		}
		top := len(stack) - 1
		switch words[0] {
		case "repeat":
			if len(words) != 3 {
				return nil, fmt.Errorf("%s:%d: want repeat COUNT VAR", path, n)
			}
			stack[top] = append(stack[top], line{number: n, words: words})
			stack = append(stack, nil)
		case "end":
			if top == 0 {
				return nil, fmt.Errorf("%s:%d: end without repeat", path, n)
			}
			outer := stack[top-1]
			outer[len(outer)-1].body = stack[top]
			stack = stack[:top]
		default:
			stack[top] = append(stack[top], line{number: n, words: words})
		}
	}
	if len(stack) != 1 {
		return nil, fmt.Errorf("%s: repeat without end", path)
	}
	s.lines = stack[0]
	return s, in.Err()
}

// number reads 4K, 1M+512, 2*4K: bytes, or plain numbers.
func number(word string) (int64, error) {
	sum := int64(0)
	for term := range strings.SplitSeq(word, "+") {
		product := int64(1)
		for factor := range strings.SplitSeq(term, "*") {
			unit := int64(1)
			digits := strings.TrimRight(factor, "KMG")
			switch strings.TrimPrefix(factor, digits) {
			case "":
			case "K":
				unit = 1 << 10
			case "M":
				unit = 1 << 20
			case "G":
				unit = 1 << 30
			default:
				return 0, fmt.Errorf("%q is not a number", word)
			}
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%q is not a number", word)
			}
			product *= n * unit
		}
		sum += product
	}
	return sum, nil
}

// args are the words of a command after its name.
type args struct {
	words []string
	err   error // the first thing that was wrong
}

func (a *args) fail(format string, v ...any) {
	if a.err == nil {
		a.err = fmt.Errorf(format, v...)
	}
}

// next takes a word; it is an error if there is none.
func (a *args) next() string {
	if len(a.words) == 0 {
		a.fail("a word is missing")
		return ""
	}
	w := a.words[0]
	a.words = a.words[1:]
	return w
}

func (a *args) more() bool { return len(a.words) > 0 }

func (a *args) rest() []string {
	w := a.words
	a.words = nil
	return w
}

func (a *args) number() int64 {
	n, err := number(a.next())
	if err != nil {
		a.fail("%w", err)
	}
	return n
}

// numberOr takes a number, or gives def if there is no word.
func (a *args) numberOr(def int64) int64 {
	if !a.more() {
		return def
	}
	return a.number()
}

func (a *args) duration() time.Duration {
	d, err := time.ParseDuration(a.next())
	if err != nil {
		a.fail("%w", err)
	}
	return d
}

// flag takes a word if it is the next one.
func (a *args) flag(word string) bool {
	for i, w := range a.words {
		if w == word {
			a.words = append(append([]string{}, a.words[:i]...), a.words[i+1:]...)
			return true
		}
	}
	return false
}

// end reports words that nobody took.
func (a *args) end() error {
	if a.err == nil && len(a.words) > 0 {
		a.fail("%q is too much", strings.Join(a.words, " "))
	}
	return a.err
}

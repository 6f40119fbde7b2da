// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Soak plays simulated clusters for a long time:
//
//	go run ./replica/internal/sim/cmd/soak -minutes 60 -from 1
//	go run ./replica/internal/sim/cmd/soak -seed 4711 -trace        # one seed, line by line
//	go run ./replica/internal/sim/cmd/soak -script failed.sim -trace
//
// A seed that fails is made as short as possible, printed as a script with its trace,
// and ends the command with exit status 1, unless -keep-going.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/go-blockmirror/blockmirror/replica/internal/sim"
)

func main() {
	minutes := flag.Float64("minutes", 0, "stop after so many minutes")
	seeds := flag.Uint64("seeds", 0, "stop after so many seeds")
	from := flag.Uint64("from", 1, "first seed")
	stride := flag.Uint64("stride", 1, "play every so manieth seed")
	seed := flag.Uint64("seed", 0, "play only this seed")
	file := flag.String("script", "", "play this script")
	trace := flag.Bool("trace", false, "print what happens, with -seed or -script")
	shrink := flag.Bool("shrink", true, "look for a shorter script that fails")
	keepGoing := flag.Bool("keep-going", false, "go on after a failure")
	flag.Parse()
	switch {
	case *file != "":
		text, err := os.ReadFile(*file)
		if err == nil {
			var s sim.Script
			if s, err = sim.ParseScript(string(text)); err == nil {
				os.Exit(single(s, *trace))
			}
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case *seed != 0:
		os.Exit(single(sim.Plan(*seed), *trace))
	}
	if *minutes == 0 && *seeds == 0 {
		*minutes = 1
	}
	os.Exit(many(*from, *seeds, *stride, time.Duration(*minutes*float64(time.Minute)), *shrink, *keepGoing))
}

// single plays one script.
func single(s sim.Script, trace bool) int {
	r, err := sim.Play(s, trace)
	if trace {
		fmt.Println(r.Trace())
	}
	if err != nil {
		fmt.Println("FAIL", err)
		return 1
	}
	fmt.Println("ok", r.Figures)
	return 0
}

// many plays seeds until the time, or their number, is used up.
func many(from, seeds, stride uint64, limit time.Duration, shrink, keepGoing bool) int {
	var all sim.Figures
	began, told, status := time.Now(), time.Now(), 0
	seed := from
	for ; (seeds == 0 || seed < from+seeds*stride) && (limit == 0 || time.Since(began) < limit); seed += stride {
		s := sim.Plan(seed)
		r, err := sim.Play(s, false)
		all.Add(r.Figures)
		if err != nil {
			status = 1
			failed(s, err, shrink)
			if !keepGoing {
				break
			}
		}
		if time.Since(told) > 30*time.Second {
			told = time.Now()
			fmt.Printf("... seed %d, %s\n", seed, all.Rate(time.Since(began)))
		}
	}
	fmt.Printf("seeds %d to %d: %s\n%s", from, seed, all.Rate(time.Since(began)), all)
	return status
}

// failed prints all that is known of a failure.
func failed(s sim.Script, err error, shrink bool) {
	fmt.Println("FAIL", sim.Report(s, err))
	if !shrink {
		return
	}
	s = sim.Shrink(s)
	r, err := sim.Play(s, true)
	fmt.Printf("%s\n\n# The script, %d actions; play it with -script FILE -trace\n%s", r.Trace(), len(s.Actions), s)
	fmt.Println("FAIL", sim.Report(s, err))
}

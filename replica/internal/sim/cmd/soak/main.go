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
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
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
	keepGoing := flag.Bool("keep-going", false, "go on after a failure; the summary has the failures by kind")
	family := flag.String("family", "", "play another kind of runs: one of "+strings.Join(sim.Families(), ", "))
	only := flag.String("only", "", "play only the seeds with these administrators: careful or reckless")
	name := flag.String("plan", "general", "general, mixed, disk-timeout, or one of "+strings.Join(sim.Foci(), ", "))
	parallel := flag.Int("parallel", runtime.GOMAXPROCS(0), "play so many seeds at a time")
	flag.Parse()
	plan := planner(*name, *family)
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
	case *family != "" && !slices.Contains(sim.Families(), *family):
		fmt.Fprintln(os.Stderr, "no such family:", *family)
		os.Exit(2)
	case plan == nil:
		fmt.Fprintln(os.Stderr, "no such plan:", *name)
		os.Exit(2)
	case *seed != 0:
		os.Exit(single(plan(*seed), *trace))
	}
	if *minutes == 0 && *seeds == 0 {
		*minutes = 1
	}
	p := soak{plan: plan, from: *from, seeds: *seeds, stride: *stride, limit: time.Duration(*minutes * float64(time.Minute)),
		careful: *only != "reckless", reckless: *only != "careful", shrink: *shrink, keepGoing: *keepGoing,
		failures: map[string][]uint64{}}
	os.Exit(p.run(max(*parallel, 1)))
}

// planner returns what makes the script of a seed; nil if there is no such plan.
func planner(name, family string) func(seed uint64) sim.Script {
	plan := sim.Plan
	switch name {
	case "general":
	case "mixed":
		plan = sim.Mixed
	case "disk-timeout":
		plan = sim.PlanDiskTimeout
	default:
		if _, ok := sim.PlanFocus(name, 1); !ok {
			return nil
		}
		plan = func(seed uint64) sim.Script { s, _ := sim.PlanFocus(name, seed); return s }
	}
	return func(seed uint64) sim.Script {
		s := plan(seed)
		s.Options.Family = family
		return s
	}
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

// soak says which seeds are played, and what follows from a failure.
type soak struct {
	plan                func(uint64) sim.Script
	from, seeds, stride uint64
	limit               time.Duration
	careful, reckless   bool
	shrink, keepGoing   bool

	mu          sync.Mutex
	next        uint64 // seed to be played
	over        bool
	began, told time.Time
	all         sim.Figures
	failures    map[string][]uint64 // by kind
}

// run plays seeds until the time, or their number, is used up, several at a time: one has
// nothing to do with another.
func (p *soak) run(parallel int) int {
	p.began, p.told, p.next = time.Now(), time.Now(), p.from
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for seed, ok := p.take(); ok; seed, ok = p.take() {
				s := p.plan(seed)
				if s.Options.Reckless && !p.reckless || !s.Options.Reckless && !p.careful {
					continue
				}
				r, err := sim.Play(s, false)
				p.played(seed, s, r, err)
			}
		})
	}
	wg.Wait()
	fmt.Printf("seeds %d to %d: %s\n%s", p.from, p.next, p.all.Rate(time.Since(p.began)), p.all)
	return summary(p.failures)
}

// take returns the next seed; false if it is the end.
func (p *soak) take() (seed uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || p.seeds != 0 && p.next >= p.from+p.seeds*p.stride || p.limit != 0 && time.Since(p.began) >= p.limit {
		return 0, false
	}
	seed = p.next
	p.next += p.stride
	return seed, true
}

// played counts a run. The others wait while one that failed is looked into.
func (p *soak) played(seed uint64, s sim.Script, r *sim.Run, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all.Add(r.Figures)
	if err != nil {
		kind := sim.FailureKind(err)
		p.failures[kind] = append(p.failures[kind], seed)
		fmt.Println("FAIL script", seed)
		failed(s, err, p.shrink)
		p.over = p.over || !p.keepGoing
	}
	if time.Since(p.told) > 30*time.Second {
		p.told = time.Now()
		fmt.Printf("... seed %d, %s\n", seed, p.all.Rate(time.Since(p.began)))
	}
}

// summary lists failures by kind, the most frequent first, and returns the exit status.
func summary(failures map[string][]uint64) int {
	kinds := slices.SortedFunc(maps.Keys(failures), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(failures[b]), len(failures[a])), cmp.Compare(a, b))
	})
	for _, kind := range kinds {
		const most = 10
		seeds := failures[kind]
		fmt.Printf("FAILED %d times: %s: seeds %v\n", len(seeds), kind, seeds[:min(len(seeds), most)])
	}
	return min(len(kinds), 1)
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

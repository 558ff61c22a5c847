package chaos_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/chaos"
)

func run(t *testing.T, o chaos.Options) chaos.Result {
	t.Helper()
	r, err := chaos.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func explain(t *testing.T, r chaos.Result) {
	t.Helper()
	t.Errorf("%s\n%s\n%s\n%+v", r.Options.Command(), r.Plan, strings.Join(r.Trace, "\n"), *r.Violation)
}

// TestHolds runs seeds under all faults. It also asserts that what is to be
// survived did happen.
func TestHolds(t *testing.T) {
	var sum chaos.Stats
	for seed := range uint64(14) {
		r := run(t, chaos.Options{Seed: seed, Steps: 4000})
		if r.Violation != nil {
			explain(t, r)
		}
		s := r.Stats
		if s.Events < 50 || s.Candidates == 0 || s.Heads == 0 || s.Served == 0 || s.Compiles == 0 || s.Full == 0 {
			t.Errorf("seed %d: too little happened: %+v", seed, s)
		}
		sum.Terms += s.Terms
		sum.Crashes += s.Crashes
		sum.Wipes += s.Wipes
		sum.Lost += s.Lost
		sum.Late += s.Late
		sum.Doubled += s.Doubled
		sum.SetAside += s.SetAside
	}
	for what, n := range map[string]int{
		"terms beyond the first": int(sum.Terms) - 14, "crashes": sum.Crashes, "streams lost": sum.Wipes, "lost messages": sum.Lost,
		"late messages": sum.Late, "doubled messages": sum.Doubled, "records set aside": sum.SetAside,
	} {
		if n <= 0 {
			t.Errorf("no %s in 14 seeds", what)
		}
	}
}

func TestSameSeedSameTrace(t *testing.T) {
	digests := map[string]uint64{}
	for seed := range uint64(3) {
		o := chaos.Options{Seed: seed, Steps: 4000}
		first, second := run(t, o), run(t, o)
		if diff := cmp.Diff(first, second); diff != "" {
			t.Errorf("seed %d differs from itself (-first +second):\n%s", seed, diff)
		}
		if other, ok := digests[first.Digest]; ok {
			t.Errorf("seeds %d and %d have the same digest", seed, other)
		}
		digests[first.Digest] = seed
	}
}

// TestPlantedBugs: each check is seen to fail, on a bug of its own, and on
// nothing else. Which seeds meet the bug changes with the parts that run.
func TestPlantedBugs(t *testing.T) {
	for _, tc := range []struct {
		bug   chaos.Bug
		want  chaos.Invariant
		steps int
	}{
		{chaos.BugTrim, chaos.I1, 4000},
		{chaos.BugClock, chaos.I2, 4000},
		{chaos.BugEdge, chaos.I3, 4000},
		{chaos.BugDeaf, chaos.I6, 1000}, // it is healing that finds it
	} {
		found := 0
		for seed := uint64(1); seed <= 20 && found < 3; seed++ {
			o := chaos.Options{Seed: seed, Steps: tc.steps, Bug: tc.bug}
			r := run(t, o)
			if r.Violation == nil {
				continue
			}
			found++
			if r.Violation.Invariant != tc.want || len(r.Trace) == 0 {
				t.Errorf("%s: %d lines of trace, %+v, want a violation of %s", o.Command(), len(r.Trace), *r.Violation, tc.want)
			}
			o.Bug = chaos.NoBug
			if r := run(t, o); r.Violation != nil {
				explain(t, r)
			}
		}
		if found < 3 {
			t.Errorf("%s: found with %d of 20 seeds", tc.bug, found)
		}
	}
}

func TestShrink(t *testing.T) {
	var found chaos.Result
	for seed := uint64(1); found.Violation == nil && seed <= 20; seed++ {
		found = run(t, chaos.Options{Seed: seed, Steps: 4000, Bug: chaos.BugTrim})
	}
	if found.Violation == nil {
		t.Fatal("the bug was not found")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	small := chaos.Shrink(ctx, found)
	if small.Violation == nil || small.Violation.Invariant != chaos.I1 {
		t.Fatalf("shrunk to %s, which gives %+v", small.Options.Command(), small.Violation)
	}
	if len(small.Options.Without) == 0 || small.Options.Steps >= found.Options.Steps {
		t.Errorf("shrunk to %s only", small.Options.Command())
	}
	if diff := cmp.Diff(small, run(t, small.Options)); diff != "" {
		t.Errorf("the shrunk run is not what it says (-shrunk +again):\n%s", diff)
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []chaos.Options{
		{Seed: 1},
		{Seed: 1, Steps: 10, Bug: "no such"},
		{Seed: 1, Steps: 10, Without: []chaos.Fault{"no such"}},
	} {
		if _, err := chaos.Run(t.Context(), o); err == nil {
			t.Errorf("%+v is run", o)
		}
	}
}

func TestRunStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := chaos.Run(ctx, chaos.Options{Seed: 1, Steps: 1 << 30}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

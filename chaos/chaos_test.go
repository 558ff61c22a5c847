package chaos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/chaos"
)

func run(t *testing.T, o chaos.Options) chaos.Result {
	t.Helper()
	r, err := chaos.Run(o)
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

func TestSim(t *testing.T) {
	var out bytes.Buffer
	if err := chaos.Sim(t.Context(), &out, chaos.SimOptions{Seed: 5, Seeds: 2, Steps: 1000}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "seed 5 ") || !strings.HasPrefix(lines[1], "seed 6 ") || !strings.HasPrefix(lines[2], "2 runs, no invariant broken") {
		t.Errorf("unexpected lines:\n%s", out.String())
	}
	if digest := run(t, chaos.Options{Seed: 6, Steps: 1000}).Digest; !strings.Contains(lines[1], digest) {
		t.Errorf("%q does not show the digest %s", lines[1], digest)
	}
}

func TestSimForATime(t *testing.T) {
	var out bytes.Buffer
	if err := chaos.Sim(t.Context(), &out, chaos.SimOptions{Seed: 5, Steps: 300, For: time.Nanosecond, JSON: true}); err != nil {
		t.Fatal(err)
	}
	var r chaos.Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if r.Options.Seed != 5 || r.Stats.Steps < 300 || r.Violation != nil {
		t.Errorf("unexpected result %+v", r)
	}
}

func TestSimFinds(t *testing.T) {
	var out bytes.Buffer
	err := chaos.Sim(t.Context(), &out, chaos.SimOptions{Seed: 1, Seeds: 20, Steps: 3000, Bug: chaos.BugEdge, ShrinkFor: 20 * time.Second})
	if !errors.Is(err, chaos.ErrViolation) {
		t.Fatalf("err = %v in\n%s", err, out.String())
	}
	for _, want := range []string{
		"invariant I3 broken at step ", "the same again:  chancery chaos sim --seed ", " --steps 3000 --bug edge-by-fingerprint\n", " serves generation ", "goes back",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "runs, no invariant broken") {
		t.Error("it went on after a violation")
	}
}

func TestSimStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := chaos.Sim(ctx, &bytes.Buffer{}, chaos.SimOptions{Seed: 1, Seeds: 1, Steps: 1 << 30}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	for _, o := range []chaos.SimOptions{
		{Seed: 1, Seeds: 1},
		{Seed: 1, Steps: 10},
		{Seed: 1, Seeds: 1, Steps: 10, Bug: "no such"},
		{Seed: 1, Seeds: 1, Steps: 10, Without: []chaos.Fault{"no such"}},
	} {
		if err := chaos.Sim(t.Context(), &bytes.Buffer{}, o); err == nil || errors.Is(err, chaos.ErrViolation) {
			t.Errorf("%+v: err = %v", o, err)
		}
	}
}

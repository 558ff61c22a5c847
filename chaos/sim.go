package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// SimOptions say what `chancery chaos sim` runs.
type SimOptions struct {
	Seed  uint64 // of the first run; each next one has the next
	Seeds int    // how many runs; 0: as many as fit For
	Steps int    // of each run, at least 1
	// For bounds the time: no run is begun after it, but the first. 0: no bound.
	For     time.Duration
	Bug     Bug
	Without []Fault
	// JSON writes each Result as a line of JSON in place of text.
	JSON bool
	// ShrinkFor bounds the time of looking for a simpler run after a
	// violation. 0 means one minute.
	ShrinkFor time.Duration
}

// ErrViolation says that a simulation broke an invariant.
var ErrViolation = errors.New("invariant broken")

func (o SimOptions) validate() error {
	if o.Seeds < 0 || o.Seeds == 0 && o.For <= 0 {
		return errors.New("chaos: nothing to run: give a number of seeds, or a time")
	}
	return Options{Steps: o.Steps, Bug: o.Bug, Without: o.Without}.validate()
}

// Sim runs simulations one after the other and writes a line on each and one
// on all. On the first violation it writes the expanded options, the last
// lines of the trace, and the command that runs the same again; then it looks
// for a simpler run, writes that one's command, and returns an ErrViolation.
// Other errors are of the options, the writer or ctx.
func Sim(ctx context.Context, out io.Writer, o SimOptions) error {
	if err := o.validate(); err != nil {
		return err
	}
	s := &simulation{out: out, json: o.JSON}
	started := time.Now()
	for n := 0; o.Seeds == 0 || n < o.Seeds; n++ {
		if n > 0 && o.For > 0 && time.Since(started) >= o.For {
			break
		}
		began := time.Now()
		r, err := run(ctx, Options{Seed: o.Seed + uint64(n), Steps: o.Steps, Bug: o.Bug, Without: o.Without})
		if err != nil {
			return err
		}
		if s.add(r, time.Since(began)); s.err != nil {
			return s.err
		}
		if r.Violation != nil {
			return s.violated(ctx, r, o.ShrinkFor)
		}
	}
	s.summary(time.Since(started))
	return s.err
}

// simulation writes what Sim found.
type simulation struct {
	out   io.Writer
	json  bool
	err   error // of writing; nothing is written after one
	runs  int
	total Stats
}

func (s *simulation) printf(format string, args ...any) {
	if s.err == nil && !s.json {
		_, s.err = fmt.Fprintf(s.out, format, args...)
	}
}

func (s *simulation) encode(v any) {
	if s.err == nil && s.json {
		s.err = json.NewEncoder(s.out).Encode(v)
	}
}

func (s *simulation) add(r Result, took time.Duration) {
	s.runs++
	s.total.Steps += r.Stats.Steps
	s.total.Virtual += r.Stats.Virtual
	s.total.Events += r.Stats.Events
	s.total.Candidates += r.Stats.Candidates
	s.total.Heads += r.Stats.Heads
	s.total.Served += r.Stats.Served
	s.total.Compiles += r.Stats.Compiles
	s.total.Full += r.Stats.Full
	s.total.Crashes += r.Stats.Crashes
	s.total.Wipes += r.Stats.Wipes
	verdict := "ok"
	if r.Violation != nil {
		verdict = string(r.Violation.Invariant)
	}
	s.encode(r)
	s.printf("seed %d  steps %d  virtual %s  events %d  candidates %d  heads %d  crashes %d  wipes %d  digest %s  %s  %s\n",
		r.Options.Seed, r.Stats.Steps, r.Stats.Virtual.Round(time.Second), r.Stats.Events, r.Stats.Candidates, r.Stats.Heads,
		r.Stats.Crashes, r.Stats.Wipes, r.Digest, verdict, took.Round(time.Millisecond))
}

func (s *simulation) summary(took time.Duration) {
	t := s.total
	s.printf("%d runs, no invariant broken: %d steps, %s of virtual time, %d events, %d candidates, %d heads, %d compiles compared (%d from nothing), %d heads served, %d crashes, %d streams lost or set back, in %s\n",
		s.runs, t.Steps, t.Virtual.Round(time.Second), t.Events, t.Candidates, t.Heads, t.Compiles, t.Full, t.Served, t.Crashes, t.Wipes, took.Round(time.Millisecond))
}

// violated writes what was broken, and the simplest run that breaks it.
func (s *simulation) violated(ctx context.Context, r Result, limit time.Duration) error {
	if limit <= 0 {
		limit = time.Minute
	}
	s.printf("\n%s\n", r.Plan)
	for _, line := range r.Trace {
		s.printf("%s\n", line)
	}
	v := r.Violation
	s.printf("\ninvariant %s broken at step %d, after %s: %s\n", v.Invariant, v.Step, v.At, v.What)
	s.printf("the same again:  %s\n", r.Options.Command())
	limited, cancel := context.WithTimeout(ctx, limit)
	small := Shrink(limited, r)
	cancel()
	if small.Options.Command() != r.Options.Command() {
		s.printf("simpler:         %s\n", small.Options.Command())
		s.encode(small)
	}
	if s.err != nil {
		return s.err
	}
	return fmt.Errorf("%w: %s with seed %d: %s; run: %s", ErrViolation, v.Invariant, r.Options.Seed, v.What, small.Options.Command())
}

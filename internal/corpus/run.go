package corpus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// A Serve makes an Envoy serve the case on its Stage, with every resource rewritten, and returns once a probe would
// be answered. dir is an empty folder for its files. stop ends all that was started, and waits for it.
type Serve func(ctx context.Context, c *Case, s *Stage, dir string) (stop func(), err error)

// A Compile returns a static Envoy bootstrap (JSON) for the case's objects.
type Compile func(ctx context.Context, c *Case) ([]byte, error)

// Static serves a case from a static bootstrap, with an Envoy of its own.
func Static(envoy string, compile Compile) Serve {
	return func(ctx context.Context, c *Case, s *Stage, dir string) (func(), error) {
		compiled, err := compile(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("compile: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "compiled.json"), compiled, 0o600); err != nil {
			return nil, err
		}
		bootstrap, err := s.Bootstrap(compiled)
		if err != nil {
			return nil, err
		}
		e, err := StartEnvoy(ctx, envoy, bootstrap, s.AdminAddress(), dir)
		if err != nil {
			return nil, err
		}
		return e.Stop, nil
	}
}

// Options say how to run cases.
type Options struct {
	// Serve makes an Envoy serve one case.
	Serve Serve
	// Dir gets a folder per case with what was compiled and what Envoy logged.
	Dir string
	// Jobs is how many cases run at a time, 1 ≤ Jobs; 0 means 2.
	Jobs int
	// Attempts is how often a probe is fired before its difference counts, 1 ≤ Attempts; 0 means 1. Shares and
	// time limits that a busy machine misses are what it is for; Result says which probes needed it.
	Attempts int
	// IgnoreHeaders are not compared.
	IgnoreHeaders []string
}

func (o Options) validate() error {
	switch {
	case o.Serve == nil:
		return errors.New("corpus options: Serve is missing")
	case o.Dir == "":
		return errors.New("corpus options: Dir is missing")
	case o.Jobs < 0:
		return fmt.Errorf("corpus options: Jobs is %d", o.Jobs)
	case o.Attempts < 0:
		return fmt.Errorf("corpus options: Attempts is %d", o.Attempts)
	}
	return nil
}

// A CaseResult is what became of one case.
type CaseResult struct {
	Name     string
	Probes   int      // fired
	Failures []string // one per probe that differs, or one if the case could not be served; none: it passed
	Again    []string // probes that agreed only after another attempt
}

// A Result is what became of all cases, in their order.
type Result struct{ Cases []CaseResult }

// Failed returns the cases that did not pass.
func (r Result) Failed() []CaseResult {
	return slices.DeleteFunc(slices.Clone(r.Cases), func(c CaseResult) bool { return len(c.Failures) == 0 })
}

// Passed returns how many cases passed.
func (r Result) Passed() int { return len(r.Cases) - len(r.Failed()) }

// Probes returns how many probes were fired.
func (r Result) Probes() int {
	n := 0
	for _, c := range r.Cases {
		n += c.Probes
	}
	return n
}

// Run plays the cases. It returns an error for wrong options or when ctx ends; what goes wrong in a case is in the
// Result.
func Run(ctx context.Context, o Options, cases []*Case) (Result, error) {
	if err := o.validate(); err != nil {
		return Result{}, err
	}
	if o.Jobs == 0 {
		o.Jobs = 2
	}
	o.Attempts = max(o.Attempts, 1)
	results := make([]CaseResult, len(cases))
	work := make(chan int)
	var workers sync.WaitGroup
	for range min(o.Jobs, len(cases)) {
		workers.Go(func() {
			for i := range work {
				results[i] = o.run(ctx, cases[i])
			}
		})
	}
	for i := range cases {
		work <- i
	}
	close(work)
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return Result{}, fmt.Errorf("run the corpus: %w", err)
	}
	return Result{Cases: results}, nil
}

func (o Options) run(ctx context.Context, c *Case) CaseResult {
	result := CaseResult{Name: c.Name}
	fail := func(err error) CaseResult {
		result.Failures = append(result.Failures, err.Error())
		return result
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	dir := filepath.Join(o.Dir, c.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	stage, err := NewStage(c)
	if err != nil {
		return fail(err)
	}
	defer stage.Close()
	stop, err := o.Serve(ctx, c, stage, dir)
	if err != nil {
		return fail(err)
	}
	defer stop()
	for _, p := range c.Probes {
		var differences []string
		for attempt := range o.Attempts {
			got, err := stage.Observe(ctx, p)
			if err != nil {
				return fail(err)
			}
			if differences = Compare(p.Expect, got, o.IgnoreHeaders...); len(differences) == 0 {
				if attempt > 0 {
					result.Again = append(result.Again, p.Name)
				}
				break
			}
		}
		result.Probes++
		if len(differences) > 0 {
			result.Failures = append(result.Failures, p.Name+": "+strings.Join(differences, ", "))
		}
	}
	return result
}

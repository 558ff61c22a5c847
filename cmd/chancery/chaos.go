package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/chaos"
	"github.com/chancery-dev/chancery/console/show"
)

// simulated is the outcome of all seeds.
type simulated struct {
	Seeds  int            `json:"seeds"`
	Steps  int            `json:"steps"`
	Broken []chaos.Result `json:"broken"`
	// Commands run the broken seeds again.
	Commands []string `json:"commands"`
	// Simplest runs the simplest that was found to break what the first broke.
	Simplest string `json:"simplest,omitempty"`
	Events   int    `json:"events"`
	Crashes  int    `json:"crashes"`
	Heads    int    `json:"heads"`
	Took     string `json:"took"`
}

// maxSeeds bounds one run.
const maxSeeds = 10_000_000

// chaosCommand tries the parts under faults.
func chaosCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "chaos", Short: "Try the parts under faults"}
	var seed uint64
	var seeds, steps, jobs int
	var bug string
	var without []string
	var limit time.Duration
	sim := &cobra.Command{
		Use: "sim", Short: "Simulate the whole install under faults, by seed",
		Long: `Run the real parts under a seeded schedule of crashes, delays, losses, repeats
and reorderings, and check the invariants. Equal options give equal runs.

Exit code 3: an invariant is broken; what was printed runs it again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g, err := globalsOf(cmd)
			if err != nil {
				return err
			}
			switch {
			case seeds < 1 || seeds > maxSeeds:
				return usageError(fmt.Sprintf("--seeds %d: want 1 to %d", seeds, maxSeeds))
			case jobs < 1 || jobs > 1024:
				return usageError(fmt.Sprintf("--jobs %d: want 1 to 1024", jobs))
			case limit < 0:
				return usageError("--for: want a positive duration")
			}
			if limit > 0 && !cmd.Flags().Changed("seeds") {
				seeds = maxSeeds
			}
			if limit > 0 && !cmd.Flags().Changed("seed") {
				var b [8]byte
				_, _ = rand.Read(b[:]) // never fails
				seed = binary.LittleEndian.Uint64(b[:]) >> 16
			}
			o := chaos.Options{Seed: seed, Steps: steps, Bug: chaos.Bug(bug)}
			for _, f := range without {
				o.Without = append(o.Without, chaos.Fault(f))
			}
			out, err := simulate(cmd.Context(), cmd.ErrOrStderr(), o, seeds, jobs, limit)
			if err != nil {
				return err
			}
			if err := showSimulated(cmd.OutOrStdout(), g, out); err != nil {
				return err
			}
			if len(out.Broken) > 0 {
				return &exitError{code: exitFindings}
			}
			return nil
		},
	}
	f := sim.Flags()
	f.Uint64Var(&seed, "seed", 1, "first seed; with --for a random one, which is printed")
	f.IntVar(&seeds, "seeds", 1, "how many seeds, counted up from the first")
	f.IntVar(&steps, "steps", 100_000, "steps under faults for each seed")
	f.DurationVar(&limit, "for", 0, "begin no more seeds after this long; without --seeds as many as fit")
	f.StringVar(&bug, "bug", "", "plant a bug that the simulator must find")
	f.StringSliceVar(&without, "without", nil, "leave these kinds of fault out")
	f.IntVar(&jobs, "jobs", runtime.NumCPU(), "seeds at once")
	cmd.AddCommand(sim)
	return cmd
}

// simulate runs seeds until one is broken, all are done, or the time is over.
func simulate(ctx context.Context, talk io.Writer, o chaos.Options, seeds, jobs int, limit time.Duration) (simulated, error) {
	out := simulated{Broken: []chaos.Result{}, Commands: []string{}}
	started := time.Now()
	fmt.Fprintf(talk, "seeds from %d, %d steps each\n", o.Seed, o.Steps)
	results := make(chan chaos.Result)
	g, running := errgroup.WithContext(ctx)
	g.SetLimit(jobs + 1)
	g.Go(func() error {
		inner := new(errgroup.Group)
		inner.SetLimit(jobs)
		for i := range seeds {
			if running.Err() != nil || limit > 0 && i > 0 && time.Since(started) > limit {
				break
			}
			one := o
			one.Seed += uint64(i)
			inner.Go(func() error {
				r, err := chaos.Run(running, one)
				switch {
				case running.Err() != nil:
					return running.Err()
				case err != nil:
					return usageError(err.Error())
				}
				select {
				case results <- r:
				case <-running.Done():
				}
				return nil
			})
		}
		err := inner.Wait()
		close(results)
		return err
	})
	for r := range results {
		out.Seeds++
		out.Steps += r.Stats.Steps
		out.Events += r.Stats.Events
		out.Crashes += r.Stats.Crashes
		out.Heads += r.Stats.Heads
		verdict := "ok"
		if r.Violation != nil {
			out.Broken = append(out.Broken, r)
			out.Commands = append(out.Commands, r.Options.Command())
			verdict = fmt.Sprintf("breaks %s at step %d: %s", r.Violation.Invariant, r.Violation.Step, show.Clean(r.Violation.What))
		}
		fmt.Fprintf(talk, "seed %d  events %d  crashes %d  heads %d  digest %s  %s\n", r.Options.Seed, r.Stats.Events, r.Stats.Crashes, r.Stats.Heads, r.Digest, verdict)
	}
	err := g.Wait()
	if err == nil && len(out.Broken) > 0 {
		fmt.Fprintln(talk, "looking for a simpler run that breaks the same")
		limited, cancel := context.WithTimeout(ctx, shrinkLimit)
		defer cancel()
		out.Simplest = chaos.Shrink(limited, out.Broken[0]).Options.Command()
	}
	out.Took = time.Since(started).Round(time.Millisecond).String()
	return out, err
}

// shrinkLimit bounds the search for a simpler run.
const shrinkLimit = time.Minute

// maxShownBroken bounds the broken seeds that are shown with their traces.
const maxShownBroken = 3

func showSimulated(w io.Writer, g globals, s simulated) error {
	switch g.show.Format {
	case show.JSON, show.YAML:
		return show.Document(w, g.show.Format, "Simulation", s)
	case show.Names:
		for _, c := range s.Commands {
			fmt.Fprintln(w, c)
		}
		return nil
	case show.Tables, show.Wide:
	}
	for i, r := range s.Broken {
		fmt.Fprintf(w, "seed %d: %s broken at step %d (%s): %s\n", r.Options.Seed, r.Violation.Invariant, r.Violation.Step, r.Violation.At, show.Clean(r.Violation.What))
		if i < maxShownBroken {
			fmt.Fprintf(w, "  %s\n", r.Plan)
			for _, line := range r.Trace {
				fmt.Fprintf(w, "  %s\n", show.Clean(line))
			}
		}
		fmt.Fprintf(w, "run it again: %s\n", s.Commands[i])
	}
	if s.Simplest != "" {
		fmt.Fprintf(w, "the simplest: %s\n", s.Simplest)
	}
	_, err := fmt.Fprintf(w, "%d seeds, %d steps, %d events, %d crashes, %d heads, %d broken, in %s\n", s.Seeds, s.Steps, s.Events, s.Crashes, s.Heads, len(s.Broken), s.Took)
	return err
}

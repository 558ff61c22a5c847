package chaos

import (
	"context"
	"slices"
)

// Shrink looks for a simpler run that breaks the invariant that the options
// broke: first without kinds of fault that are not needed, then with fewer
// steps. It returns the simplest that it found, with its result, when nothing
// simpler is left to try or ctx ends.
func Shrink(ctx context.Context, found Result) Result {
	if found.Violation == nil {
		return found
	}
	best := found
	try := func(o Options) bool {
		r, err := Run(ctx, o)
		if err != nil || r.Violation == nil || r.Violation.Invariant != found.Violation.Invariant {
			return false
		}
		best = r
		return true
	}
	for _, f := range Faults {
		if _, on := best.Options.expand().rate[f]; on && ctx.Err() == nil {
			o := best.Options
			o.Without = append(slices.Clone(o.Without), f)
			try(o)
		}
	}
	o := best.Options
	if o.Steps = min(o.Steps, best.Violation.Step); o.Steps < best.Options.Steps {
		try(o) // steps after it change nothing before it
	}
	for ctx.Err() == nil && best.Options.Steps > 1 {
		o := best.Options
		if o.Steps /= 2; !try(o) {
			break
		}
	}
	return best
}

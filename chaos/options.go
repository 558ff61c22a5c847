package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// Bug names a bug that is planted in a wrapper around a real part, so that the
// check of an invariant is seen to find it.
type Bug string

// The planted bugs. Each breaks the invariant that its comment names.
const (
	NoBug Bug = ""
	// BugTrim: a collector's outbox forgets events when the stream has them,
	// not when the hub says that they are recorded (I1).
	BugTrim Bug = "trim-before-word"
	// BugClock: a compile reads the clock (I2).
	BugClock Bug = "clock-in-compile"
	// BugEdge: an edge takes any head whose fingerprint is another (I3).
	BugEdge Bug = "edge-by-fingerprint"
	// BugDeaf: one edge takes no head at all (I6).
	BugDeaf Bug = "deaf-edge"
)

// Bugs lists the planted bugs.
var Bugs = []Bug{BugTrim, BugClock, BugEdge, BugDeaf}

// Fault is a kind of fault that a run injects.
type Fault string

// The kinds of fault.
const (
	FaultLoss       Fault = "loss"       // a message does not arrive
	FaultDelay      Fault = "delay"      // a message arrives up to seconds later, and is overtaken
	FaultDuplicate  Fault = "duplicate"  // a message arrives twice
	FaultUnknown    Fault = "unknown"    // a publish is stored, wholly or in part, and not acknowledged
	FaultCrash      Fault = "crash"      // a process stops at any step and starts from its disk
	FaultDisk       Fault = "disk"       // a write fails, or succeeds and says that it failed
	FaultOutbox     Fault = "outbox"     // a collector comes back with an empty outbox
	FaultWipe       Fault = "wipe"       // the stream is made anew, empty
	FaultRegress    Fault = "regress"    // the stream is set back to an older copy of itself
	FaultLeaders    Fault = "leaders"    // a second decision-maker starts, or the first sleeps
	FaultRefuse     Fault = "refuse"     // a taster or an Envoy refuses a snapshot
	FaultUnreadable Fault = "unreadable" // a file of a site cannot be read
	FaultStale      Fault = "stale"      // the hub's word to a collector arrives a minute late, when all is different
)

// Faults lists all kinds of fault.
var Faults = []Fault{
	FaultLoss, FaultDelay, FaultDuplicate, FaultUnknown, FaultCrash, FaultDisk, FaultOutbox, FaultWipe, FaultRegress,
	FaultLeaders, FaultRefuse, FaultUnreadable, FaultStale,
}

// Options say what is run. Equal options give equal runs.
type Options struct {
	Seed  uint64
	Steps int // events under faults, at least 1; healing comes on top
	Bug   Bug
	// Without names the kinds of fault that are left out.
	Without []Fault
}

func (o Options) validate() error {
	if o.Steps < 1 {
		return fmt.Errorf("chaos: %d steps, want at least 1", o.Steps)
	}
	if o.Bug != NoBug && !slices.Contains(Bugs, o.Bug) {
		return fmt.Errorf("chaos: no bug %q; there are %s", o.Bug, names(Bugs))
	}
	for _, f := range o.Without {
		if !slices.Contains(Faults, f) {
			return fmt.Errorf("chaos: no fault %q; there are %s", f, names(Faults))
		}
	}
	return nil
}

func names[T ~string](all []T) string {
	out := make([]string, len(all))
	for i, x := range all {
		out[i] = string(x)
	}
	return strings.Join(out, ", ")
}

// Command returns the command line that runs exactly this.
func (o Options) Command() string {
	c := fmt.Sprintf("chancery chaos sim --seed %d --seeds 1 --steps %d", o.Seed, o.Steps)
	if o.Bug != NoBug {
		c += " --bug " + string(o.Bug)
	}
	if len(o.Without) > 0 {
		c += " --without " + strings.ReplaceAll(names(o.Without), ", ", ",")
	}
	return c
}

// plan is what a seed expands to.
type plan struct {
	sites, replicas, edges int
	rate                   map[Fault]float64 // probability for each occasion; absent: off
}

// occasion is how likely each fault is at a rate of 1: for each message, each
// write or each step, as it applies.
var occasion = map[Fault]float64{
	FaultLoss: 0.08, FaultDelay: 0.10, FaultDuplicate: 0.06, FaultUnknown: 0.08, FaultCrash: 0.0015, FaultDisk: 0.01,
	FaultOutbox: 0.0001, FaultWipe: 0.0003, FaultRegress: 0.0003, FaultLeaders: 0.0006, FaultRefuse: 0.06,
	FaultUnreadable: 0.06, FaultStale: 0.06,
}

// expand draws a plan. Each fault is drawn whether it is left out or not, so
// that leaving one out changes no other. A quarter of them is off in each seed:
// what one fault hides another run shows.
func (o Options) expand() plan {
	r := rand.New(rand.NewPCG(o.Seed, 0x706c616e))
	p := plan{sites: 2 + r.IntN(2), replicas: 1 + r.IntN(3), edges: 2 + r.IntN(3), rate: map[Fault]float64{}}
	for _, f := range Faults {
		on, rate := r.IntN(4) > 0, occasion[f]*(0.3+1.5*r.Float64())
		if on && !slices.Contains(o.Without, f) {
			p.rate[f] = rate
		}
	}
	return p
}

// String returns the plan in one line.
func (p plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sites, %d replicas, %d edges;", p.sites, p.replicas, p.edges)
	for _, f := range Faults {
		if rate, ok := p.rate[f]; ok {
			fmt.Fprintf(&b, " %s=%s", f, strconv.FormatFloat(rate, 'g', 3, 64))
		}
	}
	return b.String()
}

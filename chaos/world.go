package chaos

import (
	"container/heap"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/ledger"
)

// Invariant names what must hold.
type Invariant string

// The invariants. I6 is checked when the faults have ended.
const (
	I1 Invariant = "I1" // no acknowledged event is lost
	I2 Invariant = "I2" // same prefix, same fingerprint
	I3 Invariant = "I3" // an edge never goes back
	I6 Invariant = "I6" // after healing everything converges
	// Broken: a part panicked or returned an error that it must not.
	Broken Invariant = "broken"
)

// Violation says which invariant did not hold.
type Violation struct {
	Invariant Invariant     `json:"invariant"`
	Step      int           `json:"step"`
	At        time.Duration `json:"at"` // virtual time since the start
	What      string        `json:"what"`
}

// Stats count what happened in a run.
type Stats struct {
	Steps      int           `json:"steps"` // with those of healing
	Virtual    time.Duration `json:"virtual"`
	Events     int           `json:"events"`     // recorded and acknowledged
	Candidates int           `json:"candidates"` // accepted
	Heads      int           `json:"heads"`      // accepted
	Terms      uint64        `json:"terms"`
	Served     int           `json:"served"`   // heads put into service, over all edges
	Compiles   int           `json:"compiles"` // of prefixes, compared with a recorded fingerprint
	Full       int           `json:"full"`     // of them from nothing
	Crashes    int           `json:"crashes"`
	Wipes      int           `json:"wipes"` // of the stream, set back ones included
	Lost       int           `json:"lost"`  // messages
	Late       int           `json:"late"`
	Doubled    int           `json:"doubled"`
	SetAside   int           `json:"setAside"` // tails and whole ledgers that replicas gave up
}

// Result is the outcome of a run.
type Result struct {
	Options   Options    `json:"options"`
	Plan      string     `json:"plan"`
	Violation *Violation `json:"violation,omitempty"`
	Stats     Stats      `json:"stats"`
	Digest    string     `json:"digest"` // of the whole trace
	Trace     []string   `json:"trace,omitempty"`
}

// Run runs a simulation until its steps are done and everything converged, or
// an invariant is broken. An error means that the options cannot be run.
func Run(ctx context.Context, o Options) (Result, error) {
	if err := o.validate(); err != nil {
		return Result{}, err
	}
	w, err := newWorld(o)
	if err != nil {
		return Result{}, err
	}
	w.ended = func() bool { return ctx.Err() != nil }
	w.run()
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	r := Result{
		Options: o, Plan: w.plan.String(), Violation: w.violation, Stats: w.stats, Digest: hex.EncodeToString(w.digest.Sum(nil)[:8]),
	}
	if w.violation != nil {
		r.Trace = w.tail()
	}
	return r, nil
}

// The bounds of a run.
const (
	traceLines = 60
	healSteps  = 400_000
	healTime   = 6 * time.Minute // messages are late by up to two, and a collector tells all anew after one
)

// start is the wall-clock time of virtual time 0.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// event is something that happens at a time.
type event struct {
	at   time.Duration
	n    uint64 // breaks ties in the order of scheduling
	what string
	do   func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].n < q[j].n
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push and Pop are container/heap's.
func (q *queue) Push(x any) { *q = append(*q, x.(event)) }

// Pop removes the last element.
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

// world is one run. Everything in it belongs to the goroutine of Run.
type world struct {
	opt       Options
	plan      plan
	rng       *rand.Rand
	now       time.Duration
	ended     func() bool // asked now and then
	queue     queue
	scheduled uint64
	calm      bool // no more faults and no more changes
	violation *Violation
	stats     Stats
	digest    hash.Hash
	trace     [traceLines]string
	traced    int

	hubKey  ed25519.PrivateKey
	certs   []certificate
	stream  *stream
	sites   []*site
	procs   []*proc
	edges   []*edge
	truth   *truth
	shelf   *shelf
	crashAt int // step before which no process crashes
}

func newWorld(o Options) (*world, error) {
	w := &world{
		opt: o, plan: o.expand(), rng: rand.New(rand.NewPCG(o.Seed, 0x73696d)), digest: sha256.New(),
		hubKey: key("hub"), shelf: newShelf(),
	}
	var err error
	if w.certs, err = makeCertificates(); err != nil {
		return nil, err
	}
	w.truth = newTruth(w)
	w.stream = newStream(w)
	for i := range w.plan.sites {
		s, err := newSite(w, []ledger.ClusterName{"east", "west", "north"}[i])
		if err != nil {
			return nil, err
		}
		w.sites = append(w.sites, s)
	}
	for i := range w.plan.replicas {
		w.procs = append(w.procs, newProc(w, i))
	}
	for i := range w.plan.edges {
		w.edges = append(w.edges, newEdge(w, i))
	}
	return w, nil
}

func key(name string) ed25519.PrivateKey {
	seed := ledger.DigestOf([]byte("chancery chaos key of " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func (w *world) wall() time.Time { return start.Add(w.now) }

// after schedules something.
func (w *world) after(d time.Duration, what string, do func()) {
	w.scheduled++
	heap.Push(&w.queue, event{at: w.now + max(d, 0), n: w.scheduled, what: what, do: do})
}

// between draws a duration.
func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.rng.Int64N(int64(most-least)+1))
}

// hit says whether a fault strikes on this occasion.
func (w *world) hit(f Fault) bool {
	rate, ok := w.plan.rate[f]
	return ok && !w.calm && w.rng.Float64() < rate
}

// send delivers a message to whoever do reaches: once after a moment, or never,
// or late, or twice.
func (w *world) send(what string, do func()) {
	copies := 1
	if w.hit(FaultLoss) {
		w.stats.Lost++
		return
	}
	if w.hit(FaultDuplicate) {
		w.stats.Doubled++
		copies = 2
	}
	for range copies {
		w.after(w.latency(), what, do)
	}
}

func (w *world) latency() time.Duration {
	if w.hit(FaultDelay) {
		w.stats.Late++
		if w.rng.IntN(8) == 0 {
			return w.between(5*time.Second, 60*time.Second)
		}
		return w.between(20*time.Millisecond, 4*time.Second)
	}
	return w.between(200*time.Microsecond, 4*time.Millisecond)
}

// note writes a line of the trace.
func (w *world) note(format string, args ...any) {
	line := fmt.Sprintf("%6d %12s  %s", w.stats.Steps, w.now, fmt.Sprintf(format, args...))
	w.trace[w.traced%traceLines] = line
	w.traced++
	w.digest.Write([]byte(line))
}

func (w *world) tail() []string {
	var out []string
	for i := max(0, w.traced-traceLines); i < w.traced; i++ {
		out = append(out, w.trace[i%traceLines])
	}
	return out
}

// violate ends the run. The first violation counts.
func (w *world) violate(inv Invariant, format string, args ...any) {
	if w.violation == nil {
		w.violation = &Violation{Invariant: inv, Step: w.stats.Steps, At: w.now, What: fmt.Sprintf(format, args...)}
		w.note("VIOLATION %s: %s", inv, w.violation.What)
	}
}

func (w *world) run() {
	defer func() {
		if p := recover(); p != nil {
			w.violate(Broken, "panic: %v\n%s", p, firstLines(string(debug.Stack()), 24))
		}
		w.stats.Virtual = w.now
	}()
	for _, s := range w.sites {
		s.begin()
	}
	for _, p := range w.procs {
		p.begin()
	}
	for _, e := range w.edges {
		e.begin()
	}
	w.operate()
	for w.violation == nil && w.stats.Steps < w.opt.Steps {
		if w.stats.Steps%1024 == 0 && w.ended() {
			return
		}
		w.step()
		w.nemesis()
	}
	w.heal()
}

func firstLines(s string, n int) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[:min(n, len(lines))], "\n")
}

func (w *world) step() {
	e := heap.Pop(&w.queue).(event)
	w.now = e.at
	w.stats.Steps++
	w.digest.Write([]byte(e.what))
	e.do()
	if w.stats.Steps%256 == 0 {
		w.truth.sweep()
	}
}

// nemesis injects the faults that strike between steps.
func (w *world) nemesis() {
	if w.hit(FaultWipe) {
		w.stream.wipe()
	}
	if w.hit(FaultRegress) {
		w.stream.regress()
	}
	if w.hit(FaultLeaders) {
		w.secondLeader()
	}
	if w.hit(FaultCrash) {
		w.crash()
	}
	if w.hit(FaultOutbox) {
		s := w.sites[w.rng.IntN(len(w.sites))]
		s.disk = newOutbox(w)
		s.crash("its outbox is gone")
	}
}

// crash stops one process.
func (w *world) crash() {
	n := w.rng.IntN(len(w.sites) + len(w.edges) + len(w.procs))
	switch {
	case n < len(w.sites):
		w.sites[n].crash("crash")
	case n < len(w.sites)+len(w.edges):
		w.edges[n-len(w.sites)].crash()
	default:
		// A hub process folds the ledger again when it starts; the longer the
		// ledger, the rarer it may be asked to.
		if w.stats.Steps >= w.crashAt {
			w.crashAt = w.stats.Steps + w.rng.IntN(2*(100+w.stats.Events/8))
			w.procs[n-len(w.sites)-len(w.edges)].crash()
		}
	}
}

// heal ends all faults and waits for everything to converge.
func (w *world) heal() {
	if w.violation != nil {
		return
	}
	w.calm = true
	w.note("the faults end")
	for _, s := range w.sites {
		s.mend()
	}
	until, limit := w.now+healTime, w.stats.Steps+healSteps
	why := ""
	for w.violation == nil && !w.ended() {
		for range 64 {
			w.step()
			if w.violation != nil {
				return
			}
		}
		if why = w.unsettled(); why == "" {
			w.truth.final()
			w.note("converged")
			return
		}
		if w.now > until || w.stats.Steps > limit {
			w.violate(I6, "not converged %s after the faults ended: %s", healTime, why)
		}
	}
}

// unsettled says what has not converged, "" if everything has.
func (w *world) unsettled() string {
	for _, p := range w.procs {
		if why := p.unsettled(); why != "" {
			return why
		}
	}
	for _, s := range w.sites {
		if why := s.unsettled(); why != "" {
			return why
		}
	}
	if why := w.truth.unsettled(); why != "" {
		return why
	}
	for _, e := range w.edges {
		if why := e.unsettled(); why != "" {
			return why
		}
	}
	return ""
}

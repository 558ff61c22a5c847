package federation_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// world is a decision-maker with what its shell has learned.
type world struct {
	state  *federation.State
	author *federation.Author
	log    []recorded // the ledger
	in     federation.Inputs
	served time.Time
}

type recorded struct {
	event ledger.Event
	raw   []byte
}

var epoch = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func newWorld() *world {
	w := &world{state: federation.NewState(), in: federation.Inputs{Build: "test", Now: epoch, Tastes: map[projector.Fingerprint]federation.Taste{}}}
	w.author = &federation.Author{Term: 1, Instance: "a", Previous: map[string]ledger.Digest{}}
	w.record(federation.Decision{Scope: ledger.InstallScope, Name: "term", Body: ledger.TermBegunData{Term: 1, Instance: "a"}})
	return w
}

// record appends a decision to the ledger and folds it.
func (w *world) record(d federation.Decision) string {
	e, raw, err := w.author.Encode(d, w.state.Seq, w.in.Now)
	if err != nil {
		return err.Error()
	}
	w.log = append(w.log, recorded{e, raw})
	if err := w.state.Apply(w.state.Seq+1, e, raw); err != nil {
		return err.Error()
	}
	w.author.Previous = map[string]ledger.Digest{}
	for k, v := range w.state.Previous {
		w.author.Previous[k] = v
	}
	body, _ := json.Marshal(d.Body) // plain values
	return describe(d.Name, body)
}

func describe(name string, body []byte) string {
	switch name {
	case federation.CandidateDecision:
		var c federation.Candidate
		_ = json.Unmarshal(body, &c)
		return fmt.Sprintf("candidate r%d %s from seq %d", c.Revision, c.Fingerprint.Short()[:4], c.Seq)
	case federation.TasteDecision:
		var t federation.Taste
		_ = json.Unmarshal(body, &t)
		return fmt.Sprintf("taste r%d ok=%v refused=%d", t.Revision, t.OK, len(t.Refused))
	case projector.HeadDecision:
		var h projector.Head
		_ = json.Unmarshal(body, &h)
		return fmt.Sprintf("head g%d r%d (%s)", h.Generation, h.Revision, h.Why)
	case federation.VerdictDecision:
		var v federation.Verdict
		_ = json.Unmarshal(body, &v)
		return fmt.Sprintf("verdict g%d r%d %s %s", v.Generation, v.Revision, v.Result, v.Message)
	}
	return name
}

// step asks Next until it has nothing more to record.
func (w *world) step() string {
	var out []string
	for range 10 {
		f := w.state.Fleet(federation.DefaultFleet)
		w.in.Answers.ServedAt = w.served
		ds := federation.Next(w.state, f, w.in)
		if len(ds) == 0 {
			break
		}
		for _, d := range ds {
			out = append(out, strings.TrimSpace(w.record(d)))
		}
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, "\n")
}

func fingerprint(name string) projector.Fingerprint {
	return projector.Fingerprint(ledger.DigestOf([]byte(name)))
}

func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := newWorld()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			f := w.state.Fleet(federation.DefaultFleet)
			var name string
			if len(d.CmdArgs) > 0 {
				name = d.CmdArgs[0].Key
			}
			switch d.Cmd {
			case "compiled": // a compile gave this snapshot
				routes, gone := 100, []string(nil)
				d.MaybeScanArgs(t, "routes", &routes)
				if d.HasArg("gone") {
					gone = []string{"east-http"}
				}
				w.in.Compiled = &federation.Compiled{Seq: w.state.Seq, Fingerprint: fingerprint(name), Routes: routes, Listeners: 2, GoneListeners: gone}
				if s := w.state.Shrunk(f, *w.in.Compiled); s != nil {
					return fmt.Sprintf("withheld: %d routes instead of %d, gone %v\n%s", s.Routes, s.RoutesBefore, s.GoneListeners, w.step())
				}
			case "tasted": // the resident Envoy answered
				taste := federation.Taste{OK: !d.HasArg("bad"), Taster: "envoy"}
				w.in.Tastes[fingerprint(name)] = taste
			case "served": // all Envoys proved the head
				w.in.Answers = federation.Answers{Generation: f.Head.Generation, Envoys: 2, Served: 2}
				w.served = w.in.Now
			case "nacked": // an Envoy refused the head
				w.in.Answers = federation.Answers{Generation: f.Head.Generation, Envoys: 2, Nack: &projector.Verdict{Node: "n1", Fingerprint: f.Head.Fingerprint, Message: name}}
			case "wait":
				dur, err := time.ParseDuration(name)
				if err != nil {
					t.Fatal(err)
				}
				w.in.Now = w.in.Now.Add(dur)
			case "pin":
				r := f.PreviousGood()
				if r == nil {
					return "no earlier revision"
				}
				w.record(federation.Decision{Scope: string(f.Name), Name: federation.HoldDecision, Body: federation.Hold{
					ID: f.NextHold(), Kind: federation.Pin, Fleet: f.Name, Revision: r.Revision, Fingerprint: r.Fingerprint, From: f.Head.Revision,
				}})
			case "release":
				w.record(federation.Decision{Scope: string(f.Name), Name: federation.ReleaseDecision, Body: federation.Release{Fleet: f.Name, ID: name}})
			case "consent":
				w.record(federation.Decision{Scope: string(f.Name), Name: federation.ConsentDecision, Body: federation.Consent{Fleet: f.Name, Fingerprint: fingerprint(name)}})
			case "stale-head": // a decision of an older term comes late
				before := w.state.Ignored
				old := &federation.Author{Term: w.state.Term - 1, Instance: "old", NextN: 9, Previous: w.author.Previous}
				keep := w.author
				w.author = old
				w.record(federation.Decision{Scope: string(f.Name), Name: projector.HeadDecision, Body: projector.Head{Fleet: f.Name, Ring: federation.DefaultRing, Generation: 99}})
				w.author = keep
				return fmt.Sprintf("ignored %d, head g%d", w.state.Ignored-before, w.state.Fleet(f.Name).Head.Generation)
			case "status":
				return fmt.Sprintf("head g%d r%d, newest r%d, last good r%d, holds %d", f.Head.Generation, f.Head.Revision, len(f.Revisions), f.LastGood, len(f.Holds))
			default:
				t.Fatalf("unknown command %s", d.Cmd)
			}
			return w.step()
		})
		replay(t, w)
	})
}

// replay folds the log again: the same decisions give the same state.
func replay(t *testing.T, w *world) {
	t.Helper()
	again := federation.NewState()
	for i, r := range w.log {
		e, err := ledger.DecodeEvent(r.raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Apply(ledger.Seq(i+1), e, r.raw); err != nil {
			t.Fatal(err)
		}
	}
	want, err := json.Marshal(w.state)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(again)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got) {
		t.Errorf("replayed state differs:\n%s\n%s", want, got)
	}
}

func TestHeadsAreOpenedOnlyWithTheHubsKey(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &federation.Author{Term: 3, Instance: "a", NextN: 1, Previous: map[string]ledger.Digest{}}
	want := projector.Head{Fleet: "default", Ring: "default", Generation: 7, Revision: 2, Fingerprint: fingerprint("x"), Why: "rollout"}
	_, raw, err := a.Encode(federation.Decision{Scope: "default", Name: projector.HeadDecision, Body: want}, 1, epoch)
	if err != nil {
		t.Fatal(err)
	}
	r := ledger.Sign(raw, private)
	got, err := projector.OpenHead(r, 9, public)
	if err != nil || got.Head != want || got.Term != 3 || got.Seq != 9 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := projector.OpenHead(r, 9, other); err == nil {
		t.Error("a head that another key signed was opened")
	}
}

func TestTallyCountsOnlineEnvoysOfTheHead(t *testing.T) {
	head := projector.Head{Fleet: "default", Generation: 5, Fingerprint: fingerprint("x")}
	edge := func(name string, at time.Time, envoys ...federation.EnvoyStatus) federation.SeenEdge {
		return federation.SeenEdge{EdgeStatus: federation.EdgeStatus{Edge: name, Fleet: "default", Envoys: envoys}, At: at}
	}
	edges := map[string]federation.SeenEdge{
		"a": edge("a", epoch, federation.EnvoyStatus{Node: "1", Kind: projector.Served, Generation: 5}, federation.EnvoyStatus{Node: "2", Kind: projector.Served, Generation: 4}),
		"b": edge("b", epoch.Add(-time.Hour), federation.EnvoyStatus{Node: "3", Kind: projector.Nacked, Generation: 5}),
	}
	a := federation.Tally(head, edges, epoch)
	if a.Envoys != 2 || a.Served != 1 || a.Nack != nil {
		t.Errorf("got %+v", a)
	}
	edges["b"] = edge("b", epoch, federation.EnvoyStatus{Node: "3", Kind: projector.Nacked, Generation: 5, Message: "no"})
	if a := federation.Tally(head, edges, epoch); a.Nack == nil || a.Nack.Message != "no" || a.Nack.Edge != "b" {
		t.Errorf("got %+v", a.Nack)
	}
}

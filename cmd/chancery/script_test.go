package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/projector"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"chancery": main}) }

// TestScripts runs testdata/script. Beside testscript's own commands there are
//
//	exits CODE COMMAND…   runs a command that must exit with the code
//	data DIR              makes a data directory with a story in its ledger
//	flip FILE             flips a bit in the middle of a file's last event
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: os.Getenv("UPDATE_GOLDEN") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "config"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"data":  func(ts *testscript.TestScript, _ bool, args []string) { ts.Check(makeData(ts.MkAbs(args[0]))) },
			"flip":  func(ts *testscript.TestScript, _ bool, args []string) { ts.Check(flip(ts.MkAbs(args[0]))) },
		},
	})
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var e *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &e):
		got = e.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// storyTime is when the story of makeData begins.
var storyTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// teller writes a story into a ledger.
type teller struct {
	author federation.Author
	key    ed25519.PrivateKey
	n      uint64
	clock  time.Time
	out    []ledger.Incoming
}

func (s *teller) tick() time.Time {
	s.clock = s.clock.Add(time.Second)
	return s.clock
}

func (s *teller) decide(scope, name string, body any, reason string) error {
	d := federation.Decision{Scope: scope, Name: name, Body: body, Reason: reason, Actor: ledger.Actor{Name: "chancery", Source: "hub"}}
	if reason != "" {
		d.Actor = ledger.Actor{Name: "local", Source: "operator"}
	}
	e, b, err := s.author.Encode(d, ledger.Seq(len(s.out)), s.tick())
	s.out = append(s.out, ledger.Incoming{Record: ledger.Sign(b, s.key), Subject: e.Subject})
	return err
}

func (s *teller) east(e ledger.Event) error {
	e.ID = ledger.Origin{Cluster: "east", Epoch: 1, Instance: "east-a", N: s.n}
	e.Source, e.Time = "/collector/east", s.tick()
	s.n++
	b, err := e.Encode()
	s.out = append(s.out, ledger.Incoming{Record: ledger.Sign(b, ledgertest.Key("east")), Subject: e.Subject})
	return err
}

func (s *teller) put(name, data string, previous ledger.Digest) error {
	k := ledger.ObjectKey{Cluster: "east", Group: "getambassador.io", Kind: "Mapping", Namespace: "default", Name: name}
	return s.east(ledger.Event{
		Type: ledger.ObjectPut, Subject: k.Subject(), Object: k, ObjectDigest: ledger.DigestOf([]byte(data)), PreviousDigest: previous,
		Actor: ledger.Actor{Name: "alice\x1b[31m", Source: "file"}, Data: json.RawMessage(data),
	})
}

// makeData makes a data directory as chancery serve leaves it.
func makeData(data string) error {
	authority, err := pki.Init(filepath.Join(data, "pki"))
	if err != nil {
		return err
	}
	s := &teller{author: federation.Author{Instance: "hub-a", Previous: map[string]ledger.Digest{}}, key: authority.DecisionKey(), clock: storyTime}
	first := `{"apiVersion":"getambassador.io/v3alpha1","kind":"Mapping","metadata":{"name":"web","namespace":"default"},"spec":{"hostname":"*","prefix":"/web/","service":"web"}}`
	broken := `{"apiVersion":"getambassador.io/v3alpha1","kind":"Mapping","metadata":{"name":"web","namespace":"default"},"spec":{"hostname":"*","prefix":7,"service":"web"}}`
	fleet, fp := string(federation.DefaultFleet), projector.Fingerprint(ledger.DigestOf([]byte("r1")))
	findings, err := json.Marshal(ledger.FindingsData{Findings: []ledger.SiteFinding{{Where: "web.yaml, document 2", Message: "is not YAML"}}})
	if err != nil {
		return err
	}
	err = errors.Join(
		s.decide(ledger.InstallScope, "stream-begin", ledger.StreamBegunData{Incarnation: "one", BaseRoot: ledger.DigestOf(nil)}, ""),
		func() error {
			s.author.Term = 1
			return s.decide(ledger.InstallScope, "term", ledger.TermBegunData{Term: 1, Instance: "hub-a"}, "")
		}(),
		s.decide(ledger.InstallScope, "site-added", ledger.SiteAddedData{Cluster: "east", Key: ledgertest.Public("east"), Site: "dir:east"}, ""),
		s.east(ledger.Event{Type: ledger.SyncBegin, Subject: ledger.SyncSubject("east"), Data: json.RawMessage(`{}`)}),
		s.put("web", first, ledger.Digest{}),
		s.decide(fleet, federation.CandidateDecision, federation.Candidate{Fleet: "default", Revision: 1, Seq: 5, Build: "test", Fingerprint: fp, Routes: 1, Listeners: 1}, ""),
		s.decide(fleet, federation.TasteDecision, federation.Taste{Fleet: "default", Revision: 1, Fingerprint: fp, OK: true}, ""),
		s.decide(fleet, projector.HeadDecision, projector.Head{Fleet: "default", Ring: "default", Generation: 1, Revision: 1, Fingerprint: fp, Why: "rollout"}, ""),
		s.decide(fleet, federation.VerdictDecision, federation.Verdict{Fleet: "default", Ring: "default", Generation: 1, Revision: 1, Fingerprint: fp, Result: federation.ResultPromoted, Envoys: 2}, ""),
		s.decide(fleet, federation.HoldDecision, federation.Hold{ID: "h1", Kind: federation.Pin, Fleet: "default", Revision: 1, Fingerprint: fp, From: 1}, "5xx \"spike\""),
		s.put("web", broken, ledger.DigestOf([]byte(first))),
		s.east(ledger.Event{Type: ledger.SiteFindings, Subject: ledger.SyncSubject("east"), Data: findings}),
	)
	if err != nil {
		return err
	}
	store, err := boltstore.Open(filepath.Join(data, "ledger.db"), boltstore.Options{Hub: authority.DecisionKey().Public().(ed25519.PublicKey), Install: "story"})
	if err != nil {
		return err
	}
	results, err := store.Append(context.Background(), (&ledgertest.Stream{Incarnation: "one"}).Next(s.out...))
	for _, r := range results {
		if r.Outcome != ledger.Append {
			err = errors.Join(err, errors.New(r.Reason))
		}
	}
	return errors.Join(err, store.Close())
}

// flip changes one bit of a recorded event.
func flip(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	needle := []byte(`"prefix":"/web/"`)
	for i := range len(b) - len(needle) {
		if string(b[i:i+len(needle)]) == string(needle) {
			b[i+12] ^= 1
		}
	}
	return os.WriteFile(path, b, 0o600)
}

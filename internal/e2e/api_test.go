package e2e_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
)

// Client returns a client of the running serve's API, as DATA/client.yaml names
// it.
func (s *System) Client() (*console.Client, error) {
	path := filepath.Join(s.Data, "client.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil && string(text) == s.clientOf {
		return s.client, nil
	}
	cfg, err := pki.ReadClientConfig(path)
	if err != nil {
		return nil, err
	}
	if s.client, err = console.NewClient(cfg); err != nil {
		return nil, err
	}
	s.clientOf = string(text)
	return s.client, nil
}

// Status returns what the API says of the install.
func (s *System) Status() (console.Status, error) {
	c, err := s.Client()
	if err != nil {
		return console.Status{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return c.Status(ctx, "")
}

// MustStatus is Status, which must answer.
func (s *System) MustStatus() console.Status {
	s.TB.Helper()
	st, err := s.Status()
	must(s.TB, err)
	return st
}

// InSync waits until every Envoy was proved to serve the head, and the newest
// revision is the head.
func (s *System) InSync() console.Status {
	s.TB.Helper()
	var st console.Status
	s.Eventually("in sync", func() (err error) {
		if st, err = s.Status(); err != nil {
			return err
		}
		if !st.InSync || st.Head == nil {
			return fmt.Errorf("status: %s", st.Sentence)
		}
		return nil
	})
	return st
}

// Object returns an object with what the compiler made of it.
func (s *System) Object(cluster, kind, name string) (console.Object, error) {
	var o console.Object
	c, err := s.Client()
	if err != nil {
		return o, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	err = c.Get(ctx, "/v1/objects/"+url.PathEscape(cluster)+"/"+kind+"/default/"+url.PathEscape(name), nil, &o)
	return o, err
}

// Finding waits until the API shows a finding whose object, code, message and
// remedy, joined by spaces, hold all of the texts, and which has a message.
func (s *System) Finding(texts ...string) console.Finding {
	s.TB.Helper()
	var found console.Finding
	s.Eventually(fmt.Sprintf("a finding with %q", texts), func() error {
		c, err := s.Client()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		var all console.List[console.Finding]
		if err := c.Get(ctx, "/v1/findings", nil, &all); err != nil {
			return err
		}
		for _, f := range all.Items {
			if holdsAll(strings.Join([]string{f.Object, f.Code, f.Path, f.Message, f.Other, f.Remedy}, " "), texts) {
				found = f
				return nil
			}
		}
		return fmt.Errorf("findings: %+v", all.Items)
	})
	return found
}

func holdsAll(text string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}

// Record is what a stopped system's ledger holds.
type Record struct {
	Entries []ledger.Entry
	Events  []ledger.Event // of the entries
}

// Ledger reads a copy of the ledger of a serve that does not run, and verifies
// it whole.
func (s *System) Ledger() Record {
	s.TB.Helper()
	if s.cmd != nil {
		s.TB.Fatal("the ledger is read while serve runs")
	}
	b, err := os.ReadFile(filepath.Join(s.Data, "ledger.db"))
	must(s.TB, err)
	file := filepath.Join(s.dir, "copy.db")
	must(s.TB, os.WriteFile(file, b, 0o600))
	defer func() { must(s.TB, os.Remove(file)) }()
	authority, err := pki.Open(filepath.Join(s.Data, "pki"))
	must(s.TB, err)
	store, err := boltstore.Open(file, boltstore.Options{Hub: authority.DecisionKey().Public().(ed25519.PublicKey), Install: authority.Install()})
	must(s.TB, err)
	defer func() { must(s.TB, store.Close()) }()
	if err := store.Verify(context.Background(), 1, nil); err != nil {
		s.TB.Fatalf("the ledger does not verify: %v", err)
	}
	var r Record
	for {
		entries, err := store.Read(ledger.Seq(len(r.Entries))+1, 1000)
		must(s.TB, err)
		if len(entries) == 0 {
			break
		}
		r.Entries = append(r.Entries, entries...)
	}
	for _, e := range r.Entries {
		event, err := ledger.DecodeEvent(e.Record.Event)
		must(s.TB, err)
		r.Events = append(r.Events, event)
	}
	return r
}

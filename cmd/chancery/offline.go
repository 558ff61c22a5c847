package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
	"github.com/chancery-dev/chancery/projector/shelf"
)

// stored is a data directory that this process holds.
type stored struct {
	lock  *os.File
	store *boltstore.Store
}

// openStored opens the ledger of a data directory that nobody holds.
func openStored(data string) (*stored, error) {
	path := filepath.Join(data, "ledger.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no ledger in %s; name the data directory of a chancery serve with --data", data)
	}
	authority, err := pki.Open(filepath.Join(data, "pki"))
	if err != nil {
		return nil, err
	}
	s := &stored{}
	if s.lock, err = lockData(data); err != nil {
		return nil, fmt.Errorf("%w; or leave out --offline to ask it", err)
	}
	self, err := os.Executable()
	if err == nil {
		s.store, err = boltstore.Open(path, boltstore.Options{
			Hub: authority.DecisionKey().Public().(ed25519.PublicKey), Check: boltstore.CheckInChild(self, checkLedgerCommand),
		})
	}
	if err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

func (s *stored) close() error { return errors.Join(s.store.Close(), s.lock.Close()) }

// connectOffline returns a client of an API of this process, on a data
// directory that nobody holds.
func (g globals) connectOffline() (*console.Client, func() error, error) {
	data, err := g.needData("--offline")
	if err != nil {
		return nil, nil, err
	}
	s, err := openStored(data)
	if err != nil {
		return nil, nil, err
	}
	past, err := foldStored(s.store)
	if err != nil {
		return nil, nil, errors.Join(err, s.close())
	}
	cfg := console.Config{Hub: past, Ledger: s.store, Shelf: noShelf{}}
	done := s.close
	if path := filepath.Join(data, "shelf.db"); exists(path) {
		kept, err := shelf.Open(path)
		if err != nil {
			return nil, nil, errors.Join(err, s.close())
		}
		cfg.Shelf, done = kept, func() error { return errors.Join(kept.Close(), s.close()) }
	}
	return console.Local(cfg, "offline"), done, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// storedHub is what a ledger says, without anybody who decides.
type storedHub struct{ in hub.Inside }

// foldStored folds a whole ledger as a hub does.
func foldStored(l *boltstore.Store) (*storedHub, error) {
	state, projection := federation.NewState(), projector.NewProjection()
	versions := map[ledger.Digest]*projector.Object{} // of objects that were kept, by digest
	compiler := compile.New(projector.DefaultSettings())
	for size := l.Size(); state.Seq < size; {
		entries, err := l.Read(state.Seq+1, 2000)
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			return nil, fmt.Errorf("event %d cannot be read; run chancery verify --offline", state.Seq+1)
		}
		for _, entry := range entries {
			e, err := ledger.DecodeEvent(entry.Record.Event)
			if err != nil {
				return nil, fmt.Errorf("event %d: %w; run chancery verify --offline", entry.Seq, err)
			}
			if err := state.Apply(entry.Seq, e, entry.Record.Event); err != nil {
				return nil, err
			}
			changes, err := projection.Apply(entry.Seq, e)
			if err != nil {
				return nil, err
			}
			for _, c := range changes {
				if c.After != nil {
					versions[c.After.Digest] = c.After
				}
			}
			compiler.Apply(changes)
		}
	}
	fleet := state.Fleet(federation.DefaultFleet)
	if state.Settings != nil {
		compiler.SetSettings(state.Settings.Compile)
	}
	overlay := compile.OverlayChange{LastGood: map[ledger.ObjectKey]*projector.Object{}, Refused: fleet.Refused}
	if newest := fleet.Newest(); newest != nil {
		for k, d := range newest.Kept {
			if o := versions[d]; o != nil && o.Key == k {
				overlay.LastGood[k] = o
			}
		}
	}
	compiler.SetOverlay(overlay)
	compiler.Compile()
	return &storedHub{hub.Inside{State: state, Fleet: fleet, Projection: projection, Compiler: compiler}}, nil
}

// Inspect lends what the ledger says.
func (h *storedHub) Inspect(_ context.Context, look func(hub.Inside)) error {
	h.in.Now = time.Now()
	look(h.in)
	return nil
}

// Do refuses: nobody decides.
func (h *storedHub) Do(context.Context, hub.Request) (hub.Answer, error) {
	return hub.Answer{}, fmt.Errorf("nothing is decided with --offline; start chancery serve and leave it out: %w", hub.ErrRefused)
}

// noShelf is the shelf of a data directory that has none.
type noShelf struct{}

// Get finds nothing.
func (noShelf) Get(projector.Fingerprint) (*projector.Snapshot, error) { return nil, shelf.ErrNotFound }

// Manifest finds nothing.
func (noShelf) Manifest(projector.Fingerprint) ([]byte, error) { return nil, shelf.ErrNotFound }

// Chunk finds nothing.
func (noShelf) Chunk(ledger.Digest) ([]byte, error) { return nil, shelf.ErrNotFound }

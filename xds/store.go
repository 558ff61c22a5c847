package xds

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/shelf"
)

// Store is an edge's disk: what it needs to serve with everything else gone.
// In its directory are
//
//   - edge.db, the snapshots (a projector/shelf): chunks by digest, manifests;
//   - heads.json, the head that is served and the last known good ones, as the
//     hub signed them;
//   - live.json, the last answers of the live plane, secrets sealed with
//   - edge.key (mode 0600).
//
// A damaged file is set aside, and what was in it fetched or asked for anew. A
// file of a newer chancery, or one that another process has open, is an error.
type Store struct {
	dir   string
	hub   ed25519.PublicKey
	shelf *shelf.Shelf
	seal  cipher.AEAD

	mu    sync.Mutex // guards heads, and orders writes
	heads heads
	aside []string
}

// heads is the content of heads.json.
type heads struct {
	Version int                    `json:"version"`
	Current *projector.SignedHead  `json:"current,omitempty"`
	Good    []projector.SignedHead `json:"good,omitempty"` // newest first
}

// live is the content of live.json.
type live struct {
	Version int          `json:"version"`
	Answers []liveAnswer `json:"answers"`
}

type liveAnswer struct {
	Type projector.ResourceType `json:"type"`
	Name string                 `json:"name"`
	Body []byte                 `json:"body"` // of secrets: nonce and AES-GCM, with type and name as associated data
}

const (
	storeVersion = 1
	// KeptGood is how many last known good snapshots are kept.
	KeptGood = 3
)

// ErrStoreNewer says that a newer chancery wrote a file.
var ErrStoreNewer = errors.New("written by a newer chancery: use that one, or another directory")

// ErrNothingStored says that the store holds no head.
var ErrNothingStored = errors.New("nothing is stored")

// OpenStore opens the store in the directory, or makes one. hub is the key
// that heads must be signed with.
func OpenStore(dir string, hub ed25519.PublicKey) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("edge store: %w", err)
	}
	s := &Store{dir: dir, hub: hub}
	key, err := s.key()
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err == nil {
		s.seal, err = cipher.NewGCM(block)
	}
	if err != nil {
		return nil, fmt.Errorf("edge store: %w", err)
	}
	if s.shelf, err = shelf.Open(filepath.Join(dir, "edge.db")); err != nil {
		return nil, fmt.Errorf("edge store: %w", err)
	}
	if name := s.shelf.SetAside(); name != "" {
		s.aside = append(s.aside, name)
	}
	if err := s.readHeads(); err != nil {
		return nil, errors.Join(err, s.shelf.Close())
	}
	return s, nil
}

// key reads the key that secrets are sealed with, or makes one.
func (s *Store) key() ([]byte, error) {
	path := filepath.Join(s.dir, "edge.key")
	key, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		key = make([]byte, 32)
		if _, err := rand.Read(key); err != nil {
			return nil, fmt.Errorf("edge store: %w", err)
		}
		return key, s.write("edge.key", key)
	case err != nil:
		return nil, fmt.Errorf("edge store: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("edge store: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("edge store: %s is open to others; chmod 600 it", path)
	}
	if len(key) != 32 {
		return nil, fmt.Errorf("edge store: %s has %d bytes and not 32; remove it and live.json, certificates will be asked for anew", path, len(key))
	}
	return key, nil
}

// Close closes the store.
func (s *Store) Close() error { return s.shelf.Close() }

// SetAside returns the damaged files that were renamed when the store was
// opened or read.
func (s *Store) SetAside() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.aside
}

// read decodes a file. A damaged one is set aside, and is as if there were
// none.
func (s *Store) read(name string, version func() int, v any) (found bool, err error) {
	path := filepath.Join(s.dir, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("edge store: %w", err)
	}
	switch err := json.Unmarshal(b, v); {
	case version() > storeVersion:
		return false, fmt.Errorf("edge store: %s: %w", path, ErrStoreNewer)
	case err != nil || version() != storeVersion:
		return false, s.putAside(name)
	}
	return true, nil
}

func (s *Store) putAside(name string) error {
	path := filepath.Join(s.dir, name)
	if err := os.Rename(path, path+".damaged"); err != nil {
		return fmt.Errorf("edge store: %w", err)
	}
	s.aside = append(s.aside, path+".damaged")
	return nil
}

// write replaces a file whole, durably.
func (s *Store) write(name string, b []byte) error {
	path := filepath.Join(s.dir, name)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("edge store: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("edge store: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readHeads reads heads.json. A head that the hub did not sign is damage.
func (s *Store) readHeads() error {
	var h heads
	found, err := s.read("heads.json", func() int { return h.Version }, &h)
	if err != nil || !found {
		return err
	}
	for _, p := range h.all() {
		opened, err := projector.OpenHead(p.Record, p.Seq, s.hub)
		if err != nil {
			return s.putAside("heads.json")
		}
		*p = opened
	}
	s.heads = h
	return nil
}

func (h *heads) all() []*projector.SignedHead {
	var out []*projector.SignedHead
	if h.Current != nil {
		out = append(out, h.Current)
	}
	for i := range h.Good {
		out = append(out, &h.Good[i])
	}
	return out
}

// Put stores the snapshot and then the head that names it. When it returns
// nil both are on disk; after a crash before, the head is the one before.
func (s *Store) Put(h projector.SignedHead, snapshot *projector.Snapshot) error {
	s.mu.Lock() // also so that no promotion prunes what no head names yet
	defer s.mu.Unlock()
	if err := s.shelf.Put(snapshot, shelf.Provenance{Seq: h.Seq, Fleet: h.Head.Fleet}); err != nil {
		return fmt.Errorf("edge store: %w", err)
	}
	next := s.heads
	next.Current = &h
	return s.writeHeads(next)
}

// Promote notes that the head's snapshot proved good, and drops the snapshots
// beyond KeptGood that neither proved good of late nor are current.
func (s *Store) Promote(h projector.SignedHead) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.heads
	next.Good = []projector.SignedHead{h}
	for _, g := range s.heads.Good {
		if g.Head.Fingerprint != h.Head.Fingerprint && len(next.Good) < KeptGood {
			next.Good = append(next.Good, g)
		}
	}
	if err := s.writeHeads(next); err != nil {
		return err
	}
	keep := map[projector.Fingerprint]bool{}
	for _, p := range next.all() {
		keep[p.Head.Fingerprint] = true
	}
	if _, err := s.shelf.Prune(func(fp projector.Fingerprint) bool { return keep[fp] }); err != nil {
		return fmt.Errorf("edge store: %w", err)
	}
	return nil
}

func (s *Store) writeHeads(next heads) error {
	next.Version = storeVersion
	b, err := json.MarshalIndent(next, "", "\t")
	if err != nil {
		return fmt.Errorf("edge store: %w", err)
	}
	if err := s.write("heads.json", b); err != nil {
		return err
	}
	s.heads = next
	return nil
}

// Good returns the last known good heads, newest first.
func (s *Store) Good() []projector.SignedHead {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heads.Good
}

// Load returns the head that was served last and its snapshot, or the newest
// good one whose snapshot is whole. The error is ErrNothingStored if there is
// none.
func (s *Store) Load() (projector.SignedHead, *projector.Snapshot, error) {
	s.mu.Lock()
	all := s.heads.all()
	s.mu.Unlock()
	var errs []error
	for _, h := range all {
		snapshot, err := s.shelf.Get(h.Head.Fingerprint)
		if err == nil {
			return *h, snapshot, nil
		}
		errs = append(errs, err)
	}
	return projector.SignedHead{}, nil, errors.Join(append(errs, ErrNothingStored)...)
}

// Manifest returns the manifest of a snapshot on disk.
func (s *Store) Manifest(fp projector.Fingerprint) ([]byte, error) { return s.shelf.Manifest(fp) }

// Chunk returns the encoding of a chunk on disk, checked.
func (s *Store) Chunk(d ledger.Digest) ([]byte, error) { return s.shelf.Chunk(d) }

// PutLive stores the answers of the live plane: a set as cache.Cache.Answer
// takes them.
func (s *Store) PutLive(answers []projector.Update) error {
	l := live{Version: storeVersion}
	for _, u := range answers {
		if u.Resource == nil {
			continue
		}
		a := liveAnswer{Type: u.Type, Name: u.Name, Body: u.Resource.Bytes}
		if u.Type == projector.SecretNeeds {
			nonce := make([]byte, s.seal.NonceSize(), s.seal.NonceSize()+len(a.Body)+s.seal.Overhead())
			if _, err := rand.Read(nonce); err != nil {
				return fmt.Errorf("edge store: %w", err)
			}
			a.Body = s.seal.Seal(nonce, nonce, a.Body, a.bound())
		}
		l.Answers = append(l.Answers, a)
	}
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("edge store: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write("live.json", b)
}

func (a liveAnswer) bound() []byte { return []byte(a.Type.String() + "\x00" + a.Name) }

// Live returns the answers that were stored last. What cannot be opened is
// left out: it will be asked for anew.
func (s *Store) Live() ([]projector.Update, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var l live
	found, err := s.read("live.json", func() int { return l.Version }, &l)
	if err != nil || !found {
		return nil, err
	}
	var out []projector.Update
	for _, a := range l.Answers {
		if a.Type == projector.SecretNeeds {
			n := s.seal.NonceSize()
			if len(a.Body) < n {
				continue
			}
			body, err := s.seal.Open(nil, a.Body[:n], a.Body[n:], a.bound())
			if err != nil {
				continue
			}
			a.Body = body
		}
		r := projector.NewResource(a.Name, bytes.Clone(a.Body))
		out = append(out, projector.Update{Type: a.Type, Name: a.Name, Resource: &r})
	}
	return out, nil
}

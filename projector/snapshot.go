package projector

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"
	"strings"

	"github.com/chancery-dev/chancery/ledger"
)

// ResourceType is a kind of resource in a snapshot.
type ResourceType uint8

// The resource types, in the order in which an Envoy must get additions.
const (
	// Upstreams are Envoy's clusters.
	Upstreams ResourceType = iota
	// Listeners are Envoy's listeners.
	Listeners
	// Routes are Envoy's route configurations.
	Routes
	// EndpointNeeds name the endpoints that the snapshot's upstreams are
	// served with, from the live plane (JSON of an ir.EndpointSet).
	EndpointNeeds
	// SecretNeeds name the certificates and validation contexts that the
	// snapshot refers to, from the live plane (JSON of an ir.SecretRef).
	SecretNeeds

	numTypes
)

// ResourceTypes lists all resource types.
var ResourceTypes = []ResourceType{Upstreams, Listeners, Routes, EndpointNeeds, SecretNeeds}

// String returns the type's plain name.
func (t ResourceType) String() string {
	if t >= numTypes {
		return fmt.Sprintf("resource type %d", uint8(t))
	}
	return [...]string{"upstreams", "listeners", "routes", "endpoints", "secrets"}[t]
}

// Resource is one immutable resource: a marshalled Envoy message, or the JSON
// of a need. Its version is the digest of its bytes.
type Resource struct {
	Name    string
	Bytes   []byte
	Version ledger.Digest
}

// NewResource returns the resource with its version.
func NewResource(name string, b []byte) Resource {
	return Resource{Name: name, Bytes: b, Version: ledger.DigestOf(b)}
}

// Fingerprint names a snapshot: the digest of its content.
type Fingerprint ledger.Digest

// String returns "sha256:…", "" for the zero fingerprint.
func (f Fingerprint) String() string { return ledger.Digest(f).String() }

// Short returns the first 12 hexadecimal digits, for people.
func (f Fingerprint) Short() string { return ledger.Digest(f).Short() }

// IsZero reports whether f names nothing.
func (f Fingerprint) IsZero() bool { return ledger.Digest(f).IsZero() }

// MarshalText writes the form of String.
func (f Fingerprint) MarshalText() ([]byte, error) { return ledger.Digest(f).MarshalText() }

// UnmarshalText reads the form of String.
func (f *Fingerprint) UnmarshalText(b []byte) error { return (*ledger.Digest)(f).UnmarshalText(b) }

// A snapshot holds each type's resources in chunksPerType chunks, chosen by
// the first byte of the SHA-256 of the name, so that a change of one resource
// makes one new chunk whatever the size of the snapshot.
const chunksPerType = 256

// Chunk is a content-addressed piece of a snapshot: resources of one type in
// order of name. It is immutable.
type Chunk struct {
	digest    ledger.Digest
	resources []Resource
}

// Digest returns the digest of the chunk's encoding.
func (c *Chunk) Digest() ledger.Digest { return c.digest }

// Len returns the number of resources.
func (c *Chunk) Len() int { return len(c.resources) }

func newChunk(rs []Resource) *Chunk {
	if len(rs) == 0 {
		return nil
	}
	c := &Chunk{resources: rs}
	// The digest covers names and versions, which cover the bytes.
	var b []byte
	for _, r := range rs {
		b = binary.AppendUvarint(b, uint64(len(r.Name)))
		b = append(b, r.Name...)
		b = append(b, r.Version[:]...)
	}
	c.digest = ledger.DigestOf(b)
	return c
}

// Encode writes the chunk: for each resource the name and the bytes, each
// preceded by its length as a uvarint (docs/format/snapshot.md).
func (c *Chunk) Encode() []byte {
	var b []byte
	for _, r := range c.resources {
		b = binary.AppendUvarint(b, uint64(len(r.Name)))
		b = append(b, r.Name...)
		b = binary.AppendUvarint(b, uint64(len(r.Bytes)))
		b = append(b, r.Bytes...)
	}
	return b
}

// ErrChunk says that bytes are not the chunk they are said to be.
var ErrChunk = errors.New("snapshot chunk damaged")

// DecodeChunk reads what Encode wrote and checks it against the digest. The
// chunk aliases b.
func DecodeChunk(b []byte, want ledger.Digest) (*Chunk, error) {
	next := func() ([]byte, bool) {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > uint64(len(b)-k) {
			return nil, false
		}
		field := b[k : k+int(n)]
		b = b[k+int(n):]
		return field, true
	}
	var rs []Resource
	for len(b) > 0 {
		name, ok := next()
		if !ok {
			return nil, fmt.Errorf("chunk %s: %w", want.Short(), ErrChunk)
		}
		body, ok := next()
		if !ok {
			return nil, fmt.Errorf("chunk %s: %w", want.Short(), ErrChunk)
		}
		rs = append(rs, NewResource(string(name), body))
	}
	c := newChunk(rs)
	if c == nil || c.digest != want {
		return nil, fmt.Errorf("chunk %s: %w", want.Short(), ErrChunk)
	}
	return c, nil
}

// Snapshot is the immutable configuration of one fleet. Snapshots that differ
// little share most of their chunks.
type Snapshot struct {
	chunks      [numTypes]*[chunksPerType]*Chunk
	counts      [numTypes]int
	fingerprint Fingerprint
}

var emptyChunks [chunksPerType]*Chunk

// EmptySnapshot returns the snapshot without any resource.
func EmptySnapshot() *Snapshot {
	s := &Snapshot{}
	for t := range s.chunks {
		s.chunks[t] = &emptyChunks
	}
	s.fingerprint = s.computeFingerprint()
	return s
}

// Update is one change between two snapshots. A nil Resource removes.
type Update struct {
	Type     ResourceType
	Name     string
	Resource *Resource
}

// With returns a snapshot with the updates applied, in order. The cost is
// proportional to the updates.
func (s *Snapshot) With(updates []Update) *Snapshot {
	if len(updates) == 0 {
		return s
	}
	out := *s
	type slot struct {
		t ResourceType
		i byte
	}
	touched := map[slot][]Update{}
	for _, u := range updates {
		sl := slot{u.Type, bucket(u.Name)}
		touched[sl] = append(touched[sl], u)
	}
	var own [numTypes]bool
	for sl, us := range touched {
		if !own[sl.t] {
			c := *out.chunks[sl.t]
			out.chunks[sl.t], own[sl.t] = &c, true
		}
		old := out.chunks[sl.t][sl.i]
		var rs []Resource
		if old != nil {
			rs = slices.Clone(old.resources)
		}
		before := len(rs)
		for _, u := range us {
			i, found := find(rs, u.Name)
			switch {
			case u.Resource == nil && found:
				rs = slices.Delete(rs, i, i+1)
			case u.Resource != nil && found:
				rs[i] = *u.Resource
			case u.Resource != nil:
				rs = slices.Insert(rs, i, *u.Resource)
			}
		}
		out.counts[sl.t] += len(rs) - before
		out.chunks[sl.t][sl.i] = newChunk(rs)
	}
	out.fingerprint = out.computeFingerprint()
	return &out
}

func bucket(name string) byte {
	d := ledger.DigestOf([]byte(name))
	return d[0]
}

func find(rs []Resource, name string) (int, bool) {
	return sort.Find(len(rs), func(i int) int { return strings.Compare(name, rs[i].Name) })
}

func (s *Snapshot) computeFingerprint() Fingerprint {
	return Fingerprint(ledger.DigestOf(s.Manifest()))
}

// Fingerprint returns the snapshot's name.
func (s *Snapshot) Fingerprint() Fingerprint { return s.fingerprint }

// Len returns the number of resources of a type.
func (s *Snapshot) Len(t ResourceType) int { return s.counts[t] }

// Get returns a resource.
func (s *Snapshot) Get(t ResourceType, name string) (Resource, bool) {
	c := s.chunks[t][bucket(name)]
	if c == nil {
		return Resource{}, false
	}
	i, ok := find(c.resources, name)
	if !ok {
		return Resource{}, false
	}
	return c.resources[i], true
}

// All yields the resources of a type, in an order that depends on the content
// only.
func (s *Snapshot) All(t ResourceType) iter.Seq[Resource] {
	return func(yield func(Resource) bool) {
		for _, c := range s.chunks[t] {
			if c == nil {
				continue
			}
			for _, r := range c.resources {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// Diff returns the updates that lead from one snapshot to another, in order of
// type and name. The cost is proportional to what differs.
func Diff(from, to *Snapshot) []Update {
	var out []Update
	for t := range numTypes {
		if from.chunks[t] == to.chunks[t] {
			continue
		}
		start := len(out)
		for i := range chunksPerType {
			a, b := from.chunks[t][i], to.chunks[t][i]
			if a == b || a != nil && b != nil && a.digest == b.digest {
				continue
			}
			out = append(out, diffChunk(t, a, b)...)
		}
		slices.SortFunc(out[start:], func(x, y Update) int { return strings.Compare(x.Name, y.Name) })
	}
	return out
}

func diffChunk(t ResourceType, a, b *Chunk) []Update {
	var from, to []Resource
	if a != nil {
		from = a.resources
	}
	if b != nil {
		to = b.resources
	}
	var out []Update
	i, j := 0, 0
	for i < len(from) || j < len(to) {
		switch {
		case j == len(to) || i < len(from) && from[i].Name < to[j].Name:
			out = append(out, Update{Type: t, Name: from[i].Name})
			i++
		case i == len(from) || to[j].Name < from[i].Name:
			out = append(out, Update{Type: t, Name: to[j].Name, Resource: &to[j]})
			j++
		default:
			if from[i].Version != to[j].Version {
				out = append(out, Update{Type: t, Name: to[j].Name, Resource: &to[j]})
			}
			i, j = i+1, j+1
		}
	}
	return out
}

const (
	manifestVersion = 1
	manifestEntry   = 2 + len(ledger.Digest{}) // bytes
)

// Manifest returns the list of the snapshot's chunks. Its digest is the
// fingerprint. Layout (docs/format/snapshot.md): a version byte, then for each
// chunk that is not empty its type, its bucket and its digest.
func (s *Snapshot) Manifest() []byte {
	entries := 0
	for t := range numTypes {
		entries += min(s.counts[t], chunksPerType)
	}
	b := append(make([]byte, 0, 1+entries*manifestEntry), manifestVersion)
	for t := range numTypes {
		if s.counts[t] == 0 {
			continue
		}
		for i, c := range s.chunks[t] {
			if c == nil {
				continue
			}
			b = append(b, byte(t), byte(i))
			b = append(b, c.digest[:]...)
		}
	}
	return b
}

// ManifestChunks returns the digests of the chunks that a manifest lists.
func ManifestChunks(manifest []byte) ([]ledger.Digest, error) {
	var out []ledger.Digest
	err := eachEntry(manifest, func(_ ResourceType, _ byte, d ledger.Digest) error {
		out = append(out, d)
		return nil
	})
	return out, err
}

func eachEntry(manifest []byte, f func(ResourceType, byte, ledger.Digest) error) error {
	if len(manifest) == 0 || manifest[0] != manifestVersion {
		return fmt.Errorf("%w: manifest of another version; use a newer chancery", ErrChunk)
	}
	b := manifest[1:]
	if len(b)%manifestEntry != 0 {
		return fmt.Errorf("%w: manifest of %d bytes", ErrChunk, len(manifest))
	}
	var last []byte
	for ; len(b) > 0; b = b[manifestEntry:] {
		if b[0] >= byte(numTypes) || last != nil && bytes.Compare(last, b[:2]) >= 0 {
			return fmt.Errorf("%w: manifest entries", ErrChunk)
		}
		last = b[:2]
		if err := f(ResourceType(b[0]), b[1], ledger.Digest(b[2:manifestEntry])); err != nil {
			return err
		}
	}
	return nil
}

// Assemble builds the snapshot that a manifest lists from its chunks and
// checks it against the fingerprint.
func Assemble(manifest []byte, want Fingerprint, chunk func(ledger.Digest) (*Chunk, error)) (*Snapshot, error) {
	if got := Fingerprint(ledger.DigestOf(manifest)); got != want {
		return nil, fmt.Errorf("snapshot %s: manifest is of %s: %w", want.Short(), got.Short(), ErrChunk)
	}
	s := &Snapshot{fingerprint: want}
	for t := range s.chunks {
		s.chunks[t] = new([chunksPerType]*Chunk)
	}
	err := eachEntry(manifest, func(t ResourceType, i byte, d ledger.Digest) error {
		c, err := chunk(d)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", want.Short(), err)
		}
		for _, r := range c.resources {
			if bucket(r.Name) != i {
				return fmt.Errorf("snapshot %s: %s in the wrong chunk: %w", want.Short(), r.Name, ErrChunk)
			}
		}
		s.chunks[t][i] = c
		s.counts[t] += len(c.resources)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Chunks yields the snapshot's chunks.
func (s *Snapshot) Chunks() iter.Seq[*Chunk] {
	return func(yield func(*Chunk) bool) {
		for t := range numTypes {
			for _, c := range s.chunks[t] {
				if c != nil && !yield(c) {
					return
				}
			}
		}
	}
}

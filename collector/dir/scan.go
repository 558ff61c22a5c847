package dir

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/ledger"
)

// The bounds on a directory.
const (
	maxFiles = 50_000
	maxLevel = 32
)

// file is what was last seen of one file.
type file struct {
	stamp    stamp
	sum      ledger.Digest // of the content that was parsed last, zero if none was
	objects  map[ID]*Object
	problems []problem
	unread   string // why the file as a whole cannot be read now, "" if it can
}

// scanner knows what a directory holds. Its methods read the disk and are not safe for concurrent use.
type scanner struct {
	root  string
	keep  filter
	owner owners

	base    string // the root with links resolved, "" while that fails
	dirs    []string
	files   map[string]*file // by path relative to base, with slashes
	badDirs map[string]string
	badRoot string
	holders map[ID][]string // the files that hold an object, sorted
	shown   map[ID]*Object  // what was last told
	touched map[ID]struct{} // what may differ from shown
	stale   bool            // report may return something else than before
}

func newScanner(root string, keep filter) *scanner {
	return &scanner{
		root: root, keep: keep, owner: owners{}, files: map[string]*file{}, badDirs: map[string]string{},
		holders: map[ID][]string{}, shown: map[ID]*Object{}, touched: map[ID]struct{}{},
	}
}

// rescan looks at the whole directory. It reads files whose stamp has changed.
func (s *scanner) rescan() {
	s.stale = true
	base, err := filepath.EvalSymlinks(s.root)
	if err == nil {
		base, err = filepath.Abs(base)
	}
	if err == nil {
		var info fs.FileInfo
		if info, err = os.Stat(base); err == nil && !info.IsDir() {
			err = errors.New("not a directory")
		}
	}
	var l *listing
	if err == nil {
		l = &listing{base: base, files: map[string]stamp{}, bad: map[string]string{}}
		err = l.walk("", 0)
	}
	if err != nil {
		s.base, s.badRoot = "", "cannot be read: "+reason(err)+"; what was there stays as it was"
		return
	}
	if base != s.base {
		for _, f := range s.files {
			f.stamp = stamp{}
		}
	}
	s.base, s.badRoot, s.badDirs, s.dirs = base, "", l.bad, l.dirs
	for name := range s.files {
		if _, ok := l.files[name]; !ok && !under(l.bad, name) {
			s.removeFile(name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.files)) {
		if f := s.files[name]; f == nil || f.unread != "" || f.stamp != l.files[name] || f.stamp == (stamp{}) {
			s.readFile(name)
		}
	}
}

// listing is one walk over a directory.
type listing struct {
	base  string
	dirs  []string // absolute
	files map[string]stamp
	bad   map[string]string // directories and links that cannot be read, and why
}

func (l *listing) walk(dir string, level int) error {
	full := filepath.Join(l.base, filepath.FromSlash(dir))
	entries, err := os.ReadDir(full)
	if err != nil {
		return err
	}
	l.dirs = append(l.dirs, full)
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case hidden(e.Name()):
		case e.IsDir():
			if level+1 >= maxLevel {
				l.bad[name] = fmt.Sprintf("is more than %d levels deep; move it up", maxLevel)
				continue
			}
			if err := l.walk(name, level+1); errors.Is(err, errTooMany) {
				return err
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				l.bad[name] = "cannot be read: " + reason(err) + "; what was there stays as it was"
			}
		case isManifest(e.Name()):
			info, err := os.Stat(filepath.Join(full, e.Name()))
			switch {
			case err == nil && info.IsDir(): // a link to a directory
			case err == nil:
				l.files[name] = stampOf(info)
			case errors.Is(err, fs.ErrNotExist):
				if _, err := os.Lstat(filepath.Join(full, e.Name())); err == nil {
					l.bad[name] = "is a link to a file that does not exist; what was there stays as it was"
				}
			default:
				l.bad[name] = "cannot be read: " + reason(err) + "; what was there stays as it was"
			}
			if len(l.files) > maxFiles {
				return errTooMany
			}
		}
	}
	return nil
}

var errTooMany = fmt.Errorf("more than %d files", maxFiles)

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

// isManifest reports whether a file is read. Kustomizations are instructions, not objects.
func isManifest(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !hidden(name) && strings.TrimSuffix(name, path.Ext(name)) != "kustomization"
	}
	return false
}

// under reports whether the file is one of the paths, or below one.
func under(paths map[string]string, name string) bool {
	for p := range paths {
		if name == p || strings.HasPrefix(name, p+"/") {
			return true
		}
	}
	return false
}

// reason returns an error without the path, which findings name already, and which may be one of the machine's.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return err.Error()
}

// readFile reads one file again. ok is false when it is not there or being written, so that it has to be looked at
// again.
func (s *scanner) readFile(name string) (ok bool) {
	f := s.files[name]
	if f == nil {
		f = &file{}
	}
	content, st, owner, err := s.read(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false // a rescan finds out whether it is gone
	case errors.Is(err, errChanging):
		return false
	case err != nil:
		f.unread, s.stale = "cannot be read: "+reason(err)+"; what was in it stays as it was", true
		s.files[name] = f
		return true
	}
	wasUnread := f.unread != ""
	s.stale = s.stale || wasUnread
	f.unread, f.stamp = "", st
	sum := ledger.DigestOf(content)
	if f.sum == sum && !wasUnread {
		return true
	}
	objects, problems := parse(name, owner, content, s.keep)
	next := make(map[ID]*Object, len(objects))
	for _, o := range objects {
		next[o.ID] = o
	}
	for id, o := range f.objects {
		if next[id] == nil && maybe(problems, id) {
			next[id] = o
		}
	}
	before := f.objects
	s.stale = s.stale || len(f.problems) > 0 || len(problems) > 0
	f.sum, f.objects, f.problems = sum, next, problems
	s.files[name] = f
	for id := range before {
		s.touched[id] = struct{}{}
		if next[id] == nil {
			s.release(id, name)
		}
	}
	for id := range next {
		s.touched[id] = struct{}{}
		if before[id] == nil {
			s.hold(id, name)
		}
	}
	return true
}

// maybe reports whether one of the problems may be about the object.
func maybe(problems []problem, id ID) bool {
	for _, p := range problems {
		if p.name == "" || p.name == id.Name && p.namespace == id.Namespace {
			return true
		}
	}
	return false
}

var errChanging = errors.New("changes while it is read")

func (s *scanner) read(name string) (content []byte, st stamp, owner string, err error) {
	full := filepath.Join(s.base, filepath.FromSlash(name))
	info, err := os.Stat(full)
	if err != nil {
		return nil, stamp{}, "", err
	}
	if !info.Mode().IsRegular() {
		return nil, stamp{}, "", errors.New("not a regular file")
	}
	if info.Size() > MaxFileBytes {
		return nil, stamp{}, "", fmt.Errorf("%d bytes, more than %d; split it", info.Size(), MaxFileBytes)
	}
	f, err := os.Open(full)
	if err != nil {
		return nil, stamp{}, "", err
	}
	defer func() { _ = f.Close() }() // nothing was written
	if info, err = f.Stat(); err != nil {
		return nil, stamp{}, "", err
	}
	if content, err = io.ReadAll(io.LimitReader(f, MaxFileBytes+1)); err != nil {
		return nil, stamp{}, "", err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, stamp{}, "", err
	}
	if stampOf(after) != stampOf(info) || int64(len(content)) != after.Size() {
		return nil, stamp{}, "", errChanging
	}
	return content, stampOf(after), s.owner.of(after), nil
}

func (s *scanner) removeFile(name string) {
	for id := range s.files[name].objects {
		s.touched[id] = struct{}{}
		s.release(id, name)
	}
	delete(s.files, name)
}

func (s *scanner) hold(id ID, name string) {
	h := s.holders[id]
	i, _ := slices.BinarySearch(h, name)
	s.stale = s.stale || len(h) > 0
	s.holders[id] = slices.Insert(h, i, name)
}

func (s *scanner) release(id ID, name string) {
	s.stale = s.stale || len(s.holders[id]) > 1
	h := slices.DeleteFunc(s.holders[id], func(n string) bool { return n == name })
	if len(h) == 0 {
		delete(s.holders, id)
		return
	}
	s.holders[id] = h
}

// changes returns the objects that differ from what was last told, in order, and takes them for told. Those that are
// gone are only taken for told where gone is wanted.
func (s *scanner) changes(wantGone bool) (put []*Object, gone []ID, waiting bool) {
	for _, id := range slices.SortedFunc(maps.Keys(s.touched), ID.compare) {
		old := s.shown[id]
		h := s.holders[id]
		switch {
		case len(h) == 0 && old != nil && !wantGone:
			waiting = true
			continue
		case len(h) == 0 && old != nil:
			gone = append(gone, id)
			delete(s.shown, id)
		case len(h) > 0:
			if o := s.files[h[0]].objects[id]; old == nil || !o.equal(old) {
				put = append(put, o)
				s.shown[id] = o
			}
		}
		delete(s.touched, id)
	}
	return put, gone, waiting
}

// all returns every object, in order, and takes all for told.
func (s *scanner) all() []*Object {
	clear(s.touched)
	s.shown = make(map[ID]*Object, len(s.holders))
	var out []*Object
	for _, id := range slices.SortedFunc(maps.Keys(s.holders), ID.compare) {
		o := s.files[s.holders[id][0]].objects[id]
		s.shown[id] = o
		out = append(out, o)
	}
	return out
}

func (id ID) compare(o ID) int {
	return cmp.Or(
		strings.Compare(id.Group, o.Group), strings.Compare(id.Kind, o.Kind),
		strings.Compare(id.Namespace, o.Namespace), strings.Compare(id.Name, o.Name),
	)
}

func (o *Object) equal(p *Object) bool {
	if o.Where != p.Where {
		return false
	}
	if o.normal != nil && p.normal != nil {
		return o.normal.Digest == p.normal.Digest && o.normal.Facts == p.normal.Facts &&
			slices.Equal(o.normal.SecretRefs, p.normal.SecretRefs)
	}
	return reflect.DeepEqual(o.Raw, p.Raw)
}

// report returns what cannot be read now, in order.
func (s *scanner) report() collector.Report {
	s.stale = false
	var r collector.Report
	add := func(where, message string) {
		r.Findings = append(r.Findings, ledger.SiteFinding{Where: where, Message: message})
	}
	if s.badRoot != "" {
		add(".", s.badRoot)
		r.Unknown = append(r.Unknown, collector.Unknown{})
	}
	for _, name := range slices.Sorted(maps.Keys(s.badDirs)) {
		add(name, s.badDirs[name])
		r.Unknown = append(r.Unknown, collector.Unknown{Where: name})
	}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		f := s.files[name]
		if f.unread != "" {
			add(name, f.unread)
			r.Unknown = append(r.Unknown, collector.Unknown{Where: name})
		}
		for _, p := range f.problems {
			where := name
			if p.document > 0 {
				where = fmt.Sprintf("%s, document %d", name, p.document)
			}
			add(where, p.text)
			u := collector.Unknown{Where: name, Namespace: p.namespace, Name: p.name}
			if !slices.Contains(r.Unknown, u) {
				r.Unknown = append(r.Unknown, u)
			}
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.holders), ID.compare) {
		h := s.holders[id]
		for _, name := range h[1:] {
			add(name, fmt.Sprintf("%s %s is in %s too, which counts; remove one", collector.GroupKind{Group: id.Group, Kind: id.Kind}, id.qualified(), h[0]))
		}
	}
	return r
}

func (id ID) qualified() string {
	if id.Namespace == "" {
		return id.Name
	}
	return id.Namespace + "/" + id.Name
}

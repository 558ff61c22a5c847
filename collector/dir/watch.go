package dir

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/chancery-dev/chancery/collector"
)

// Timing says how long a watch waits. The zero value of a field means its default.
type Timing struct {
	// Write is how long a file that is written in place must be quiet before it is read. Default 20 ms.
	Write time.Duration
	// Removal is how long a directory must be quiet before what seems to be gone is believed to be, and before a new
	// finding is told: editors and tools remove and write again. Default 100 ms.
	Removal time.Duration
	// Ceiling is the longest that Write and Removal are extended by more changes. Default 1 s.
	Ceiling time.Duration
	// Rescan is how often everything is looked at for changes that were not notified. Default 30 s.
	Rescan time.Duration
}

func (t Timing) withDefaults() Timing {
	for _, f := range []struct {
		at  *time.Duration
		def time.Duration
	}{
		{&t.Write, 20 * time.Millisecond},
		{&t.Removal, 100 * time.Millisecond},
		{&t.Ceiling, time.Second},
		{&t.Rescan, 30 * time.Second},
	} {
		if *f.at <= 0 {
			*f.at = f.def
		}
	}
	return t
}

// Contents is what a directory holds.
type Contents struct {
	Objects []*Object // in order of their IDs
	Report  collector.Report
}

// Read reads a directory once. What cannot be read is in the report; the error is for a path that
// cannot be read at all.
func Read(root string) (Contents, error) {
	s := newScanner(root, everything)
	s.rescan()
	if s.badRoot != "" {
		return Contents{}, fmt.Errorf("directory %s %s", root, strings.TrimSuffix(s.badRoot, "; what was there stays as it was"))
	}
	return Contents{Objects: s.all(), Report: s.report()}, nil
}

func everything(*Object) (bool, error) { return true, nil }

// Change is what a watch has to say. It is applied as a whole.
type Change struct {
	// Full: the directory has been read completely for the first time, and Put holds all of it but what Report says
	// is unknown.
	Full   bool
	Put    []*Object
	Gone   []ID
	Report *collector.Report // nil if it has not changed
}

// Watch reads a directory and calls emit for everything that changes in it, one call at a time, until ctx ends; it
// then returns nil. What changes while emit blocks is the next call's. A directory that is not there is a finding,
// not an error.
func Watch(ctx context.Context, root string, t Timing, emit func(Change)) error {
	return watch(ctx, root, t, everything, emit)
}

func watch(ctx context.Context, root string, t Timing, keep filter, emit func(Change)) error {
	notify, err := fsnotify.NewBufferedWatcher(4096)
	if err != nil {
		return fmt.Errorf("watch %s: %w", root, err)
	}
	defer func() { _ = notify.Close() }() // nothing is lost by it
	w := &watcher{
		Timing: t.withDefaults(), scanner: newScanner(root, keep), notify: notify, emit: emit,
		watched: map[string]bool{}, writes: map[string]*deadline{},
	}
	return w.run(ctx)
}

// watcher is the loop around a scanner. One goroutine runs it.
type watcher struct {
	Timing
	*scanner
	notify   *fsnotify.Watcher
	emit     func(Change)
	watched  map[string]bool  // directories
	unseen   string           // why some directory is not watched, "" if all are
	complete bool             // a Change with Full was emitted
	now      collector.Report // what cannot be read now
	told     collector.Report

	renamed bool                 // the event before was of a file's old name, so that this one's is whole
	writes  map[string]*deadline // files that are being written
	removal *deadline            // when what is gone is believed
}

// deadline is a moment that more of the same puts off, up to a ceiling.
type deadline struct{ at, last time.Time }

func extend(d *deadline, now time.Time, by, ceiling time.Duration) *deadline {
	if d == nil {
		d = &deadline{last: now.Add(ceiling)}
	}
	d.at = now.Add(by)
	if d.at.After(d.last) {
		d.at = d.last
	}
	return d
}

func (w *watcher) run(ctx context.Context) error {
	rescan := time.NewTicker(w.Rescan)
	defer rescan.Stop()
	wake := time.NewTimer(time.Hour)
	defer wake.Stop()
	w.lookAround()
	w.tell(false)
	for {
		wake.Reset(w.untilNext())
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.notify.Events:
			if !ok {
				return errors.New("file notification ended")
			}
			w.onEvents(e)
		case err, ok := <-w.notify.Errors:
			if ok && err != nil {
				w.lookAround() // events were lost
			}
		case <-rescan.C:
			w.lookAround()
		case <-wake.C:
		}
		now := time.Now()
		for name, d := range w.writes {
			if !now.Before(d.at) {
				delete(w.writes, name)
				if !w.readFile(name) {
					w.removal = extend(w.removal, now, w.Removal, w.Ceiling)
				}
			}
		}
		believe := w.removal != nil && !now.Before(w.removal.at)
		if believe {
			w.removal = nil
			w.lookAround()
		}
		w.tell(believe)
	}
}

func (w *watcher) untilNext() time.Duration {
	next := time.Hour
	for _, d := range w.writes {
		next = min(next, time.Until(d.at))
	}
	if w.removal != nil {
		next = min(next, time.Until(w.removal.at))
	}
	return max(next, 0)
}

// lookAround rescans, and watches the directories that there now are. A directory is listed after its watch began,
// so that nothing in it is missed.
func (w *watcher) lookAround() {
	for range 8 { // while directories come
		w.rescan()
		added := w.follow()
		if !added {
			return
		}
	}
}

// follow watches what the last rescan found, and reports whether a watch is new.
func (w *watcher) follow() (added bool) {
	want := map[string]bool{}
	for _, d := range w.dirs {
		want[d] = true
	}
	if abs, err := filepath.Abs(w.root); err == nil {
		want[filepath.Dir(abs)] = true // the root may be a link that is replaced, or come later
	}
	w.unseen = ""
	for d := range w.watched {
		if !want[d] {
			_ = w.notify.Remove(d) // it may be gone with the directory
			delete(w.watched, d)
		}
	}
	for d := range want {
		if w.watched[d] {
			continue
		}
		if err := w.notify.Add(d); err != nil {
			if w.base != "" && strings.HasPrefix(d, w.base) {
				w.unseen = reason(err)
			}
			continue
		}
		w.watched[d] = true
		added = true
	}
	return added
}

// onEvents takes an event and all that wait behind it.
func (w *watcher) onEvents(e fsnotify.Event) {
	rescan := false
	for {
		rescan = w.onEvent(e) || rescan
		w.renamed = e.Op.Has(fsnotify.Rename)
		select {
		case next, ok := <-w.notify.Events:
			if ok {
				e = next
				continue
			}
		default:
		}
		break
	}
	if rescan {
		w.lookAround()
	}
}

// onEvent takes one event, and reports whether the whole directory has to be looked at.
func (w *watcher) onEvent(e fsnotify.Event) (rescan bool) {
	now := time.Now()
	base := filepath.Base(e.Name)
	name, inside := w.relative(e.Name)
	if e.Op.Has(fsnotify.Remove) || e.Op.Has(fsnotify.Rename) {
		if w.watched[e.Name] {
			_ = w.notify.Remove(e.Name) // the watch is of the old directory; one that is in its place needs its own
			delete(w.watched, e.Name)
			w.removal = extend(w.removal, now, w.Removal, w.Ceiling)
		}
	}
	if !inside {
		abs, err := filepath.Abs(w.root)
		return err == nil && e.Name == abs // the root itself
	}
	switch {
	case strings.HasPrefix(base, ".."):
		return true // a mounted ConfigMap is replaced through the link ..data
	case hidden(base):
		return false
	case !isManifest(base):
		return e.Op.Has(fsnotify.Create) // it may be a directory
	case e.Op.Has(fsnotify.Remove) || e.Op.Has(fsnotify.Rename):
		delete(w.writes, name)
		w.removal = extend(w.removal, now, w.Removal, w.Ceiling)
		return false
	case e.Op == fsnotify.Chmod:
		return w.files[name] != nil && w.files[name].unread != ""
	case e.Op.Has(fsnotify.Create) && (w.renamed || w.placed(e.Name)):
		if w.readFile(name) {
			delete(w.writes, name)
			return false
		}
	}
	w.writes[name] = extend(w.writes[name], now, w.Write, w.Ceiling)
	return false
}

// relative returns a path relative to the root.
func (w *watcher) relative(full string) (string, bool) {
	if w.base == "" {
		return "", false
	}
	rel, err := filepath.Rel(w.base, full)
	if err != nil || rel == "." || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}

// tell emits what differs from what was told last. Puts, and findings that are over, are told at once; what is gone
// and new findings only where they are to be believed now.
func (w *watcher) tell(believe bool) {
	if w.stale {
		w.now = w.report()
		if w.unseen != "" {
			w.now.Findings = append(w.now.Findings, unwatched(w.unseen))
		}
	}
	report := w.now
	var c Change
	waiting := false
	if !w.complete {
		believe = true
		if w.badRoot == "" {
			w.complete, c.Full = true, true
			c.Put = w.all()
		}
	} else {
		c.Put, c.Gone, waiting = w.changes(believe)
	}
	if !slices.Equal(report.Findings, w.told.Findings) || !slices.Equal(report.Unknown, w.told.Unknown) {
		if believe || subset(report, w.told) {
			w.told = report
			c.Report = &report
		} else {
			waiting = true
		}
	}
	if waiting && w.removal == nil {
		w.removal = extend(nil, time.Now(), w.Removal, w.Ceiling)
	}
	if c.Full || len(c.Put) > 0 || len(c.Gone) > 0 || c.Report != nil {
		w.emit(c)
	}
}

// subset reports whether a holds nothing that b does not.
func subset(a, b collector.Report) bool {
	for _, f := range a.Findings {
		if !slices.Contains(b.Findings, f) {
			return false
		}
	}
	for _, u := range a.Unknown {
		if !slices.Contains(b.Unknown, u) {
			return false
		}
	}
	return true
}

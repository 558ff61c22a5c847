package collectortest

import (
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/ledger"
)

// WriteFault is what becomes of one write.
type WriteFault int

// The faults of a write.
const (
	WriteWorks WriteFault = iota
	// WriteFails: it did not happen, and the writer is told.
	WriteFails
	// WriteUntold: it did happen, and the writer is told that it failed.
	WriteUntold
)

// Outbox is a collector.Outbox in memory, or one around another, that fails on demand. It outlives the collectors
// that use it, as a file would. It is safe for concurrent use.
type Outbox struct {
	mu     sync.Mutex
	inner  collector.Outbox // nil: in memory
	fault  func(n int) WriteFault
	writes int
	limit  int64

	state collector.State
	items []collector.Item
}

// NewOutbox returns an outbox that takes limit bytes of events. It keeps them in inner, or in memory if that is nil.
func NewOutbox(inner collector.Outbox, limit int64) *Outbox {
	return &Outbox{inner: inner, limit: limit, state: collector.State{Inventory: map[ledger.ObjectKey]collector.Told{}}}
}

// SetFault sets what becomes of the n-th write from now on, counted from 0; nil for no faults.
func (o *Outbox) SetFault(f func(n int) WriteFault) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fault, o.writes = f, 0
}

// Lose forgets everything, as when the file is deleted between two collectors.
func (o *Outbox) Lose() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.items, o.state = nil, collector.State{Inventory: map[ledger.ObjectKey]collector.Told{}}
}

// Load returns a copy of what is kept.
func (o *Outbox) Load() (collector.State, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inner != nil {
		return o.inner.Load()
	}
	s := o.state
	s.Inventory = maps.Clone(s.Inventory)
	if len(o.items) > 0 {
		s.Oldest = o.items[0].At
	}
	return s, nil
}

var errWrite = errors.New("fault: no space left on device")

// Apply keeps a batch, if no fault is due.
func (o *Outbox) Apply(b collector.Batch) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	fault := WriteWorks
	if o.fault != nil {
		fault = o.fault(o.writes)
		o.writes++
	}
	if fault == WriteFails {
		return errWrite
	}
	if o.inner != nil {
		if err := o.inner.Apply(b); err != nil {
			return err
		}
	} else {
		o.apply(b)
	}
	if fault == WriteUntold {
		return errWrite
	}
	return nil
}

func (o *Outbox) apply(b collector.Batch) {
	if b.Reset {
		o.items = nil
	}
	o.items = append(o.items, b.Append...)
	o.state.Apply(b)
	if b.Trim != nil {
		o.items = slices.DeleteFunc(slices.Clone(o.items), func(it collector.Item) bool { return it.At.Compare(*b.Trim) <= 0 })
	}
}

// Read returns items from a position on.
func (o *Outbox) Read(from collector.Position, n, maxBytes int) ([]collector.Item, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inner != nil {
		return o.inner.Read(from, n, maxBytes)
	}
	var out []collector.Item
	bytes := 0
	for _, it := range o.items {
		if it.At.Compare(from) < 0 {
			continue
		}
		if bytes += size(it); len(out) == n || bytes > maxBytes && len(out) > 0 {
			break
		}
		out = append(out, it)
	}
	return out, nil
}

// Size returns the bytes that wait, and the limit.
func (o *Outbox) Size() (used, limit int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inner != nil {
		return o.inner.Size()
	}
	for _, it := range o.items {
		used += int64(size(it))
	}
	return used, o.limit
}

func size(it collector.Item) int {
	return len(it.Subject) + len(it.Record.Event) + len(it.Record.Signature)
}

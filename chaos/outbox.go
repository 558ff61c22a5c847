package chaos

import (
	"errors"
	"maps"
	"slices"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/ledger"
)

// outbox is the model of a collector's disk: what Apply returned from is there
// after a crash, all of a batch or nothing.
type outbox struct {
	w     *world
	state collector.State
	items []collector.Item
}

func newOutbox(w *world) *outbox {
	return &outbox{w: w, state: collector.State{Inventory: map[ledger.ObjectKey]collector.Told{}}}
}

// load returns a copy of what is on disk.
func (o *outbox) load() collector.State {
	s := o.state
	s.Inventory = maps.Clone(s.Inventory)
	s.Oldest = collector.Position{}
	if len(o.items) > 0 {
		s.Oldest = o.items[0].At
	}
	return s
}

var errDisk = errors.New("write failed, or may have")

// apply makes a batch durable. After an error load says whether it is.
func (o *outbox) apply(b collector.Batch) error {
	fault := o.w.hit(FaultDisk)
	if fault && o.w.rng.IntN(2) == 0 {
		return errDisk
	}
	if b.Reset {
		o.items = nil
	}
	o.items = append(o.items, b.Append...)
	o.state.Apply(b)
	if b.Trim != nil {
		o.trim(*b.Trim)
	}
	if fault {
		return errDisk
	}
	return nil
}

// trim forgets the items up to a position. Those of the position's epoch are
// said to be recorded; older ones that are not will never be.
func (o *outbox) trim(to collector.Position) {
	n := 0
	for n < len(o.items) && o.items[n].At.Compare(to) <= 0 {
		if o.items[n].At.Epoch == to.Epoch {
			o.w.truth.released(o.items[n])
		}
		n++
	}
	o.items = slices.Clone(o.items[n:])
}

// read returns up to n items from a position on.
func (o *outbox) read(from collector.Position, n int) []collector.Item {
	i, _ := slices.BinarySearchFunc(o.items, from, func(it collector.Item, p collector.Position) int { return it.At.Compare(p) })
	return slices.Clone(o.items[i:min(i+n, len(o.items))])
}

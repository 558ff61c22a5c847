package compile

import (
	"fmt"
	"slices"
	"sort"
)

// graph is an ordered list of rules over tables. Rules read tables that
// earlier rules write, so one pass in order brings everything up to date.
type graph struct {
	rules   []*rule
	current *node // being run, nil outside of a rule
	gen     uint64
	runs    int // nodes run since the graph was made
	nodes   uint64
}

// rule is a family of nodes, one for each row or bucket that it is made from.
type rule struct {
	g     *graph
	name  string
	order int
	dirty []*node
	// onPanic says what a panic of the node of this key means; nil: the panic
	// goes on. Its rows are written as the node's.
	onPanic func(key, recovered any)
}

// node is one evaluation of a rule.
type node struct {
	id      uint64
	rule    *rule
	key     any
	run     func()
	forget  func() // removes the node from its rule
	dirty   bool
	dead    bool // its source is gone: retract and forget
	gen     uint64
	reads   []dependency
	outputs []output
}

// output is a row that a node owns.
type output interface {
	// retractUnless removes the row if its owner did not write it again in
	// this generation.
	retractUnless(n *node, gen uint64) (kept bool)
}

// dependency is something that a node has read.
type dependency interface {
	// release forgets the reader, and itself if nothing else is left of it.
	release(n *node)
}

// cell knows who has read what can change: a row, or a bucket.
type cell struct {
	readers map[*node]struct{}
}

// broken is a panic that containment must not swallow.
type broken string

func (g *graph) newRule(name string) *rule {
	r := &rule{g: g, name: name, order: len(g.rules)}
	g.rules = append(g.rules, r)
	return r
}

func (r *rule) newNode(key any) *node {
	r.g.nodes++
	return &node{id: r.g.nodes, rule: r, key: key}
}

func (g *graph) read(c *cell, what dependency) {
	n := g.current
	if n == nil {
		return
	}
	if _, ok := c.readers[n]; ok {
		return
	}
	if c.readers == nil {
		c.readers = map[*node]struct{}{}
	}
	c.readers[n] = struct{}{}
	n.reads = append(n.reads, what)
}

func (g *graph) changed(c *cell) {
	for n := range c.readers {
		n.mark()
	}
}

func (n *node) mark() {
	if n.dirty {
		return
	}
	if cur := n.rule.g.current; cur != nil && n.rule.order <= cur.rule.order {
		panic(broken(fmt.Sprintf("rule %s changes what rule %s, not after it, has read", cur.rule.name, n.rule.name)))
	}
	n.dirty = true
	n.rule.dirty = append(n.rule.dirty, n)
}

// update runs what is dirty, in the order of the rules.
func (g *graph) update() {
	for _, r := range g.rules {
		for len(r.dirty) > 0 {
			n := r.dirty[len(r.dirty)-1]
			r.dirty = r.dirty[:len(r.dirty)-1]
			n.dirty = false
			g.eval(n)
		}
	}
}

func (g *graph) eval(n *node) {
	for _, r := range n.reads {
		r.release(n)
	}
	clear(n.reads)
	n.reads = n.reads[:0]
	g.gen++
	n.gen = g.gen
	old := n.outputs
	n.outputs = nil
	g.current = n
	if !n.dead {
		g.runs++
		g.contained(n, n.run)
	}
	for _, o := range old {
		o.retractUnless(n, n.gen)
	}
	g.current = nil
	if n.dead {
		n.forget()
	}
}

// contained runs f; if it panics, what it wrote is taken back and the rule
// says what to write instead.
func (g *graph) contained(n *node, f func()) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if _, ok := p.(broken); ok || n.rule.onPanic == nil {
			panic(p)
		}
		g.gen++
		n.gen = g.gen
		for _, o := range n.outputs {
			o.retractUnless(n, n.gen)
		}
		n.outputs = nil
		n.rule.onPanic(n.key, p)
	}()
	f()
}

// table holds rows by key. Rows are written by rules, each by one node, or set
// from outside.
type table[K comparable, V any] struct {
	g       *graph
	name    string
	equal   func(a, b V) bool
	rows    map[K]*row[K, V]
	watches []func(k K, old, now *row[K, V])
}

type row[K comparable, V any] struct {
	cell
	t     *table[K, V]
	key   K
	value V
	has   bool
	owner *node
	gen   uint64
}

func newTable[K comparable, V any](g *graph, name string, equal func(a, b V) bool) *table[K, V] {
	return &table[K, V]{g: g, name: name, equal: equal, rows: map[K]*row[K, V]{}}
}

// get reads a row; that it is missing is recorded as well.
func (t *table[K, V]) get(k K) (V, bool) {
	r := t.rows[k]
	if r == nil {
		if t.g.current == nil {
			var zero V
			return zero, false
		}
		r = &row[K, V]{t: t, key: k}
		t.rows[k] = r
	}
	t.g.read(&r.cell, r)
	return r.value, r.has
}

// put writes a row from within a rule.
func (t *table[K, V]) put(k K, v V) {
	n := t.g.current
	if n == nil {
		panic(broken("put outside of a rule in table " + t.name))
	}
	r := t.rows[k]
	if r != nil && r.has && r.owner != n {
		panic(broken(fmt.Sprintf("table %s: row %v has two owners: %s %v and %s %v", t.name, k, r.owner.rule.name, r.owner.key, n.rule.name, n.key)))
	}
	if r != nil && r.has && r.gen == n.gen {
		panic(broken(fmt.Sprintf("table %s: row %v is written twice by %s %v", t.name, k, n.rule.name, n.key)))
	}
	r = t.set(k, v)
	r.owner, r.gen = n, n.gen
	n.outputs = append(n.outputs, r)
}

// set writes a row, from outside of any rule for tables that hold inputs.
func (t *table[K, V]) set(k K, v V) *row[K, V] {
	r := t.rows[k]
	if r == nil {
		r = &row[K, V]{t: t, key: k}
		t.rows[k] = r
	}
	if r.has && t.equal(r.value, v) {
		return r
	}
	var old *row[K, V]
	if r.has {
		old = &row[K, V]{key: k, value: r.value, has: true}
	}
	r.value, r.has = v, true
	t.notify(r, old, r)
	return r
}

// remove takes a row away.
func (t *table[K, V]) remove(k K) {
	r := t.rows[k]
	if r == nil || !r.has {
		return
	}
	old := &row[K, V]{key: k, value: r.value, has: true}
	var zero V
	r.value, r.has, r.owner = zero, false, nil
	t.notify(r, old, nil)
	if len(r.readers) == 0 {
		delete(t.rows, k)
	}
}

func (r *row[K, V]) release(n *node) {
	delete(r.readers, n)
	if !r.has && len(r.readers) == 0 {
		delete(r.t.rows, r.key)
	}
}

func (t *table[K, V]) notify(r, old, now *row[K, V]) {
	t.g.changed(&r.cell)
	for _, w := range t.watches {
		w(r.key, old, now)
	}
}

func (r *row[K, V]) retractUnless(n *node, gen uint64) bool {
	if r.owner != n || r.gen == gen {
		return true
	}
	r.t.remove(r.key)
	return false
}

// each makes a rule with a node for each row of a table. The node runs again
// when its row or anything that it read changes.
func each[K comparable, V any](t *table[K, V], name string, f func(k K, v V)) *rule {
	r := t.g.newRule(name)
	nodes := map[K]*node{}
	t.watches = append(t.watches, func(k K, _, now *row[K, V]) {
		n := nodes[k]
		if n == nil {
			if now == nil {
				return
			}
			n = r.newNode(k)
			n.run = func() {
				if row := t.rows[k]; row != nil && row.has {
					f(k, row.value)
				}
			}
			n.forget = func() { delete(nodes, k) }
			nodes[k] = n
		}
		n.dead = now == nil
		n.mark()
	})
	return r
}

// entry is a row as an index holds it.
type entry[K comparable, V any] struct {
	key   K
	value V
}

// index groups the rows of a table into buckets, each in order.
type index[B comparable, K comparable, V any] struct {
	t       *table[K, V]
	compare func(a, b entry[K, V]) int
	buckets map[B]*bucket[B, K, V]
	watches []func(b B, empty bool)
}

type bucket[B comparable, K comparable, V any] struct {
	cell
	ix       *index[B, K, V]
	key      B
	occupied cell // changes when the bucket becomes empty or stops being so
	entries  []entry[K, V]
	pending  []entry[K, V] // added, not yet in order
}

// newIndex indexes a table by of, which gives the buckets of a row. compare
// must be a total order on rows.
func newIndex[B, K comparable, V any](t *table[K, V], of func(k K, v V) []B, compare func(a, b entry[K, V]) int) *index[B, K, V] {
	ix := &index[B, K, V]{t: t, compare: compare, buckets: map[B]*bucket[B, K, V]{}}
	t.watches = append(t.watches, func(k K, old, now *row[K, V]) {
		var was, is []B
		if old != nil {
			was = of(k, old.value)
		}
		if now != nil {
			is = of(k, now.value)
		}
		for _, b := range was {
			if slices.Contains(is, b) && ix.replace(b, entry[K, V]{k, old.value}, entry[K, V]{k, now.value}) {
				continue
			}
			ix.drop(b, entry[K, V]{k, old.value})
			if !slices.Contains(is, b) {
				ix.settle(b)
			}
		}
		for _, b := range is {
			if old == nil || !slices.Contains(was, b) || ix.compare(entry[K, V]{k, old.value}, entry[K, V]{k, now.value}) != 0 {
				ix.add(b, entry[K, V]{k, now.value})
			}
			ix.settle(b)
		}
	})
	return ix
}

// one makes a bucket function of a function that gives a single bucket.
func one[B, K comparable, V any](of func(k K, v V) B) func(K, V) []B {
	return func(k K, v V) []B { return []B{of(k, v)} }
}

func (ix *index[B, K, V]) add(b B, e entry[K, V]) {
	bk := ix.buckets[b]
	if bk == nil {
		bk = &bucket[B, K, V]{ix: ix, key: b}
		ix.buckets[b] = bk
	}
	bk.pending = append(bk.pending, e)
	if len(bk.entries)+len(bk.pending) == 1 {
		ix.t.g.changed(&bk.occupied)
	}
}

// replace changes a row whose place in the order stays.
func (ix *index[B, K, V]) replace(b B, old, now entry[K, V]) bool {
	if ix.compare(old, now) != 0 {
		return false
	}
	bk := ix.buckets[b]
	ix.sort(bk)
	i, ok := sort.Find(len(bk.entries), func(i int) int { return ix.compare(old, bk.entries[i]) })
	if !ok || bk.entries[i].key != old.key {
		panic(broken(fmt.Sprintf("index of table %s lost row %v", ix.t.name, old.key)))
	}
	bk.entries[i] = now
	return true
}

func (ix *index[B, K, V]) drop(b B, e entry[K, V]) {
	bk := ix.buckets[b]
	if bk == nil {
		panic(broken("index of table " + ix.t.name + " lost a bucket"))
	}
	ix.sort(bk)
	i, ok := sort.Find(len(bk.entries), func(i int) int { return ix.compare(e, bk.entries[i]) })
	if !ok || bk.entries[i].key != e.key {
		panic(broken(fmt.Sprintf("index of table %s lost row %v", ix.t.name, e.key)))
	}
	bk.entries = slices.Delete(bk.entries, i, i+1)
	if len(bk.entries) == 0 {
		ix.t.g.changed(&bk.occupied)
	}
}

// settle tells of a changed bucket.
func (ix *index[B, K, V]) settle(b B) {
	bk := ix.buckets[b]
	ix.t.g.changed(&bk.cell)
	empty := len(bk.entries)+len(bk.pending) == 0
	for _, w := range ix.watches {
		w(b, empty)
	}
	bk.freeIfUnused()
}

func (bk *bucket[B, K, V]) freeIfUnused() {
	if len(bk.entries)+len(bk.pending)+len(bk.readers)+len(bk.occupied.readers) == 0 {
		delete(bk.ix.buckets, bk.key)
	}
}

func (bk *bucket[B, K, V]) release(n *node) {
	delete(bk.readers, n)
	delete(bk.occupied.readers, n)
	bk.freeIfUnused()
}

// sort brings added entries into place: one by one while they are few.
func (ix *index[B, K, V]) sort(bk *bucket[B, K, V]) {
	const few = 8
	if len(bk.pending) > few {
		bk.entries = append(bk.entries, bk.pending...)
		slices.SortFunc(bk.entries, ix.compare)
	} else {
		for _, e := range bk.pending {
			i, _ := sort.Find(len(bk.entries), func(i int) int { return ix.compare(e, bk.entries[i]) })
			bk.entries = slices.Insert(bk.entries, i, e)
		}
	}
	clear(bk.pending)
	bk.pending = bk.pending[:0]
}

func (ix *index[B, K, V]) at(b B) *bucket[B, K, V] {
	bk := ix.buckets[b]
	if bk == nil {
		if ix.t.g.current == nil {
			return &bucket[B, K, V]{}
		}
		bk = &bucket[B, K, V]{ix: ix, key: b}
		ix.buckets[b] = bk
	}
	return bk
}

// bucket reads the rows of a bucket in order. The slice is valid until the
// rule returns.
func (ix *index[B, K, V]) bucket(b B) []entry[K, V] {
	bk := ix.at(b)
	ix.t.g.read(&bk.cell, bk)
	ix.sort(bk)
	return bk.entries
}

// empty reads whether a bucket has no rows, and nothing else of it.
func (ix *index[B, K, V]) empty(b B) bool {
	bk := ix.at(b)
	ix.t.g.read(&bk.occupied, bk)
	return len(bk.entries)+len(bk.pending) == 0
}

// eachBucket makes a rule with a node for each bucket that has rows. The node
// runs again when the bucket or anything that it read changes.
func eachBucket[B, K comparable, V any](ix *index[B, K, V], name string, f func(b B)) *rule {
	r := ix.t.g.newRule(name)
	nodes := map[B]*node{}
	ix.watches = append(ix.watches, func(b B, empty bool) {
		n := nodes[b]
		if n == nil {
			if empty {
				return
			}
			n = r.newNode(b)
			n.run = func() { f(b) }
			n.forget = func() { delete(nodes, b) }
			nodes[b] = n
		}
		n.dead = empty
		n.mark()
	})
	return r
}

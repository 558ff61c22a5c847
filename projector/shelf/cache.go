package shelf

import (
	"container/list"
	"sync"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// cache keeps the decoded chunks that were used last, up to a number of
// encoded bytes.
type cache struct {
	max int

	mu    sync.Mutex // guards what follows
	size  int
	order *list.List // of cached, the one used last in front
	byKey map[ledger.Digest]*list.Element
}

type cached struct {
	chunk *projector.Chunk
	size  int
}

func newCache(maxBytes int) *cache {
	return &cache{max: maxBytes, order: list.New(), byKey: map[ledger.Digest]*list.Element{}}
}

func (c *cache) get(d ledger.Digest) *projector.Chunk {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[d]
	if !ok {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(cached).chunk
}

// add takes the chunk, of size encoded bytes, and drops the oldest ones. A
// chunk larger than the whole cache is not kept.
func (c *cache) add(chunk *projector.Chunk, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byKey[chunk.Digest()]; ok || size > c.max {
		return
	}
	c.byKey[chunk.Digest()] = c.order.PushFront(cached{chunk, size})
	for c.size += size; c.size > c.max; {
		last := c.order.Back()
		old := c.order.Remove(last).(cached)
		delete(c.byKey, old.chunk.Digest())
		c.size -= old.size
	}
}

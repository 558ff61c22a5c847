package e2e_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// slots is how many Mappings a churn changes.
const slots = 12

// churn changes the objects of a site at random, beside routes that nobody
// touches and a counter that only rises.
type churn struct {
	*System
	rng   *rand.Rand
	slot  [slots]string // the service that it is to be served by, "" for none, "?" for whatever was good last
	count int           // of the counter
	ips   [2]string     // of the backends v1 and v2

	steady  []Route
	counter Route
}

// SeedVariable is the environment variable that repeats a printed seed.
const SeedVariable = "CHANCERY_E2E_SEED"

func newSeed(t *testing.T) uint64 {
	t.Helper()
	if text := os.Getenv(SeedVariable); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		must(t, err)
		return seed
	}
	return uint64(time.Now().UnixNano())
}

// newChurn returns a churn over the site east, which does not run yet.
func newChurn(t *testing.T, seed uint64) *churn {
	t.Helper()
	t.Logf("seed %d", seed)
	c := &churn{System: newSystem(t, "east"), rng: rand.New(rand.NewPCG(seed, 0))}
	c.steady = []Route{
		{Name: "steady", Host: "steady.example.com", Path: "/", Expect: []string{"steady"}},
		{Name: "neighbour", Host: "churn.example.com", Path: "/steady/", Expect: []string{"steady"}},
		{Name: "secure", Host: "secure.example.com", Path: "/", TLS: true, Expect: []string{"steady"}},
	}
	c.steady = append(c.steady, freshly(c.steady[2]))
	c.counter = Route{Name: "counter", Host: "churn.example.com", Path: "/counter/", Expect: []string{"steady"}}
	c.ips = [2]string{c.Backend("v1"), c.Backend("v2")}
	cert, key, _ := c.roots.Issue(t, "secure.example.com", 12*time.Hour)
	c.Write("east", "base.yaml", Documents(
		Listeners(), Host("steady", "steady.example.com", ""), Host("churn", "churn.example.com", ""), Host("secure", "secure.example.com", "secure-tls"),
		TLSSecret("secure-tls", cert, key), Service("steady", c.Backend("steady")), Service("v1", c.ips[0]), Service("v2", c.ips[1]),
		Mapping("steady", "steady.example.com", "/", "steady:8080"),
		Mapping("neighbour", "churn.example.com", "/steady/", "steady:8080"),
		Mapping("secure", "secure.example.com", "/", "steady:8080"),
	))
	c.certify("turning")
	c.Write("east", "turning.yaml", Host("turning", "turning.example.com", "turning-tls"))
	c.Write("east", "moving.yaml", Service("moving", c.ips[0]))
	for i := range slots {
		c.put(i)
	}
	c.raise()
	return c
}

// begin starts serve and waits until all that is steady is served.
func (c *churn) begin() {
	c.TB.Helper()
	c.Start()
	c.Ready()
	for _, r := range append(c.steady, c.counter) {
		c.Served(r)
	}
}

func (c *churn) file(i int) string { return fmt.Sprintf("slot-%d.yaml", i) }

// route is that of a slot, which expects what the slot was last set to.
func (c *churn) route(i int) Route {
	r := Route{Name: fmt.Sprintf("slot %d", i), Host: "churn.example.com", Path: fmt.Sprintf("/slot-%d/", i)}
	if c.slot[i] == "moving" {
		r.Expect = []string{"v1", "v2"}
	} else if c.slot[i] != "" {
		r.Expect = []string{c.slot[i]}
	}
	return r
}

func (c *churn) mapping(i int, service string, more ...string) string {
	return Mapping(fmt.Sprintf("slot-%d", i), "churn.example.com", fmt.Sprintf("/slot-%d/", i), service, more...)
}

func (c *churn) put(i int) {
	c.slot[i] = []string{"v1", "v2", "moving"}[c.rng.IntN(3)]
	c.Write("east", c.file(i), c.mapping(i, c.slot[i]+":8080"))
}

// raise makes the counter's backend see the next number.
func (c *churn) raise() {
	c.count++
	c.Write("east", "counter.yaml", Mapping("counter", "churn.example.com", "/counter/", "steady:8080", fmt.Sprintf("rewrite: /count/%d/", c.count)))
}

// change makes one random change, and raises the counter.
func (c *churn) change() {
	i := c.rng.IntN(slots)
	switch n := c.rng.IntN(10); n {
	default:
		c.put(i)
	case 4, 5: // deleted
		if err := os.Remove(c.SitePath("east", c.file(i))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.TB.Fatal(err)
		}
		c.slot[i] = ""
	case 6: // a Service moves
		c.Write("east", "moving.yaml", Service("moving", c.ips[c.rng.IntN(2)]))
	case 7: // a certificate is renewed
		c.certify("turning")
	case 8: // not YAML
		c.Write("east", c.file(i), "spec: {prefix: [\n")
		c.slot[i] = "?"
	case 9: // a wrong field
		c.Write("east", c.file(i), c.mapping(i, "v1:8080", "timeout_ms: soon"))
		c.slot[i] = "?"
	}
	c.raise()
}

// settle mends what is broken and waits until what is served is what is in the
// directory.
func (c *churn) settle() {
	c.TB.Helper()
	for i := range slots {
		if c.slot[i] == "?" {
			c.put(i)
		}
	}
	c.raise()
	c.Eventually("the last change is served", func() error {
		o := c.Get(c.counter)
		if n := counted(o); n != c.count {
			return fmt.Errorf("count %d of %d, %s", n, c.count, o.answer())
		}
		return nil
	})
	for i := range slots {
		if r := c.route(i); c.slot[i] == "" {
			c.Gone(r)
		} else {
			c.Served(r)
		}
	}
}

// counted returns the number that the counter's backend saw, 0 for none.
func counted(o Outcome) int {
	var n int
	if o.Status == http.StatusOK {
		_, _ = fmt.Sscanf(o.Path, "/count/%d/", &n) // 0 is the answer then
	}
	return n
}

// neverBack fails the test if the counter was served a lower number after a
// higher one, and returns all numbers that were served.
func neverBack(t *testing.T, load *Load, r Route) map[int]bool {
	t.Helper()
	served := map[int]bool{}
	last := Outcome{}
	for _, o := range load.Since(r.Name, time.Time{}) {
		if o.Err != nil {
			continue // reported by Stop
		}
		if counted(o) < counted(last) {
			t.Errorf("at %s version %d was served, at %s version %d", last.At.Format(time.StampMilli), counted(last), o.At.Format(time.StampMilli), counted(o))
		}
		last = o
		served[counted(o)] = true
	}
	return served
}

func TestMixedChanges(t *testing.T) {
	t.Parallel()
	c := newChurn(t, newSeed(t))
	c.begin()
	load := c.StartLoad(50, 2, c.steady...)
	count := c.StartLoad(100, 1, c.counter)
	changes := Count(30, 100)
	for range changes {
		c.change()
		load.More(15)
	}
	c.settle()
	load.More(50)
	load.Stop()
	neverBack(t, count, c.counter)
	count.Stop()
	if n := load.Drains(); n != 0 {
		t.Errorf("%d answers asked to close the connection: a listener was drained", n)
	}
	t.Logf("mixed changes: %d", changes)
}

// recorded returns the counter's numbers in the ledger.
func recorded(r Record) map[int]bool {
	out := map[int]bool{}
	for _, e := range r.Events {
		if e.Object.Name == "counter" {
			if _, rest, ok := strings.Cut(string(e.Data), `/count/`); ok {
				var n int
				if _, err := fmt.Sscanf(rest, "%d/", &n); err == nil {
					out[n] = true
				}
			}
		}
	}
	return out
}

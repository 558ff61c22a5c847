package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// pair is a system that serves two hosts of one site, one of which the tests
// leave alone.
type pair struct {
	*System
	steady, changed Route // cleartext
}

// startPair is newPair, and waits until both are served.
func startPair(t *testing.T) *pair {
	t.Helper()
	p := newPair(t)
	p.begin()
	return p
}

// newPair makes a site east with a Mapping steady that nobody touches and a
// Mapping changed that goes to the backend v1, each in a file of its own.
func newPair(t *testing.T) *pair {
	t.Helper()
	s := newSystem(t, "east")
	p := &pair{
		System:  s,
		steady:  Route{Name: "steady", Host: "steady.example.com", Path: "/", Expect: []string{"steady"}},
		changed: Route{Name: "changed", Host: "changed.example.com", Path: "/x/", Expect: []string{"v1"}},
	}
	s.Write("east", "base.yaml", Documents(
		Listeners(), Host("steady", "steady.example.com", ""), Host("changed", "changed.example.com", ""),
		Service("steady", s.Backend("steady")), Service("v1", s.Backend("v1")), Service("v2", s.Backend("v2")),
		Mapping("steady", "steady.example.com", "/", "steady:8080"),
	))
	p.changeTo("v1")
	return p
}

func (p *pair) begin() {
	p.TB.Helper()
	p.Start()
	p.Ready()
	p.Served(p.steady)
	p.Served(p.changed)
}

func (p *pair) changeTo(service string) {
	p.TB.Helper()
	p.Write("east", "changed.yaml", Mapping("changed", "changed.example.com", "/x/", service+":8080"))
}

func expecting(r Route, backends ...string) Route {
	r.Expect = backends
	return r
}

// freshly returns the route with a connection, and a handshake, for each
// request.
func freshly(r Route) Route {
	r.Name, r.Fresh = r.Name+" freshly", true
	return r
}

func TestChangeAndDelete(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	// Either version may answer while it changes, but one of them has to.
	load := p.StartLoad(100, 4, p.steady, expecting(p.changed, "v1", "v2"))
	for range Count(10, 100) {
		p.changeTo("v2")
		p.Served(expecting(p.changed, "v2"))
		p.changeTo("v1")
		p.Served(p.changed)
		load.More(50)
	}
	load.Stop()

	load = p.StartLoad(200, 4, p.steady)
	for range Count(5, 50) {
		p.Remove("east", "changed.yaml")
		p.Gone(p.changed)
		p.changeTo("v1")
		p.Served(p.changed)
		load.More(50)
	}
	load.Stop()
}

func TestCanarySplit(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	any := expecting(p.changed, "v1", "v2")
	load := p.StartLoad(200, 4, any)
	steady := p.StartLoad(20, 2, p.steady)
	for _, weight := range []int{10, 50} {
		p.Write("east", "canary.yaml", Mapping("canary", "changed.example.com", "/x/", "v2:8080", fmt.Sprintf("weight: %d", weight)))
		p.InSyncWith("canary")
		begin := time.Now()
		want := Count(1500, 10000)
		p.Eventually("enough requests", func() error {
			if n := len(load.Since(any.Name, begin)); n < want {
				return fmt.Errorf("%d of %d", n, want)
			}
			return nil
		})
		outcomes := load.Since(any.Name, begin)
		got := 0
		for _, o := range outcomes {
			if o.Backend == "v2" {
				got++
			}
		}
		share := 100 * float64(got) / float64(len(outcomes))
		t.Logf("weight %d: %.1f %% of %d requests", weight, share, len(outcomes))
		// Five standard deviations of the smaller count: 3.9 and 6.5 points.
		tolerance := map[int]float64{10: 3.9, 50: 6.5}[weight]
		if share < float64(weight)-tolerance || share > float64(weight)+tolerance {
			t.Errorf("the canary with weight %d got %.1f %% of %d requests, want within %.1f points", weight, share, len(outcomes), tolerance)
		}
	}
	p.Remove("east", "canary.yaml")
	p.Eventually("the canary gets nothing", func() error {
		for range 50 {
			if o := p.Get(p.changed); o.Err != nil {
				return o.Err
			}
		}
		return nil
	})
	load.Stop()
	steady.Stop()
}

// InSyncWith waits until an object is recorded and what is compiled with it is
// served.
func (s *System) InSyncWith(mapping string) {
	s.TB.Helper()
	s.Eventually(mapping+" is served", func() error {
		o, err := s.Object("east", "Mapping", mapping)
		if err != nil {
			return err
		}
		st, err := s.Status()
		switch {
		case err != nil:
			return err
		case o.State != "accepted":
			return fmt.Errorf("%s is %s: %+v", mapping, o.State, o.Findings)
		case !st.InSync || st.Head == nil || st.Head.Seq < o.Seq:
			return fmt.Errorf("%s is recorded at %d; %s", mapping, o.Seq, st.Sentence)
		}
		return nil
	})
}

// startSecured starts a system with two TLS hosts, each with a certificate of its own.
func startSecured(t *testing.T) (s *System, a, b Route, serials map[string]int64) {
	t.Helper()
	s = newSystem(t, "east")
	serials = map[string]int64{}
	base := []string{Listeners()}
	for _, name := range []string{"a", "b"} {
		host := name + ".example.com"
		base = append(base, Host(name, host, name+"-tls"), Service(name, s.Backend(name)), Mapping(name, host, "/", name+":8080"))
		serials[host] = s.certify(name)
	}
	s.Write("east", "base.yaml", Documents(base...))
	s.Start()
	s.Ready()
	a = Route{Name: "a", Host: "a.example.com", Path: "/", TLS: true, Expect: []string{"a"}}
	b = Route{Name: "b", Host: "b.example.com", Path: "/", TLS: true, Expect: []string{"b"}}
	s.Served(a)
	s.Served(b)
	return s, a, b, serials
}

// certify writes a new certificate for the host name.example.com and returns
// its serial number.
func (s *System) certify(name string) int64 {
	s.TB.Helper()
	cert, key, serial := s.roots.Issue(s.TB, name+".example.com", 12*time.Hour)
	s.Write("east", name+"-tls.yaml", TLSSecret(name+"-tls", cert, key))
	return serial
}

func TestTLSWithSNI(t *testing.T) {
	t.Parallel()
	s, a, b, serials := startSecured(t)
	load := s.StartLoad(100, 2, a, b)
	for range Count(20, 500) {
		load.More(20)
		for host, want := range serials {
			if got, err := s.Shown(host); got != want {
				t.Errorf("%s is shown the certificate %d, want %d: %v", host, got, want, err)
			}
		}
	}
	if got, err := s.Shown("c.example.com"); err == nil {
		t.Errorf("a host that nobody configured is shown the trusted certificate %d", got)
	}
	load.Stop()
}

func TestCertificateRotation(t *testing.T) {
	t.Parallel()
	s, a, b, serials := startSecured(t)
	before := s.listenerStats()
	load := s.StartLoad(100, 2, a, b)
	fresh := s.StartLoad(50, 2, freshly(a), freshly(b))
	load.More(50)
	for range Count(5, 50) {
		want := s.certify("a")
		s.Eventually("the new certificate is shown", func() error {
			got, err := s.Shown("a.example.com")
			if err == nil && got != want {
				err = fmt.Errorf("shown %d, want %d", got, want)
			}
			return err
		})
		load.More(50)
	}
	if got, err := s.Shown("b.example.com"); got != serials["b.example.com"] {
		t.Errorf("b.example.com is shown %d, want %d, which did not change: %v", got, serials["b.example.com"], err)
	}
	if n := load.Drains(); n != 0 {
		t.Errorf("%d answers asked to close the connection: a listener was drained", n)
	}
	if n := load.Connections(); n != 4 {
		t.Errorf("the load needed %d connections, want the 4 that it began with", n)
	}
	load.Stop()
	fresh.Stop()
	if after := s.listenerStats(); !slices.Equal(before, after) {
		t.Errorf("listeners changed while a certificate was rotated:\nbefore %v\nafter  %v", before, after)
	}
}

// listenerStats returns what tells whether listeners were added, changed or
// drained, as "name value".
func (s *System) listenerStats() []string {
	s.TB.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	stats, err := s.Admin().Stats(ctx, `^listener_manager\.(listener_(added|modified|removed|in_place_updated|create_success|stopped)|total_(listeners|filter_chains)_draining|total_listeners_active)$`)
	must(s.TB, err)
	var out []string
	for name, v := range stats {
		out = append(out, fmt.Sprintf("%s %d", name, v))
	}
	if len(out) < 5 {
		s.TB.Fatal(errors.New("the admin interface does not show the listeners' statistics"))
	}
	slices.Sort(out)
	return out
}

package taste_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/internal/testbed"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
	"github.com/chancery-dev/chancery/xds/taste"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestBisect finds planted culprits, alone and in pairs, in few steps.
func TestBisect(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "n")
		index := rapid.IntRange(0, n-1)
		type pair struct{ a, b int } // bad together; alone if equal
		var planted []pair
		for range rapid.IntRange(0, taste.MaxCulprits).Draw(t, "culprits") {
			p := pair{a: index.Draw(t, "a")}
			p.b = p.a
			if rapid.Bool().Draw(t, "two") {
				p.b = index.Draw(t, "b")
			}
			planted = append(planted, p)
		}
		steps := 0
		bad := func(included []int) bool {
			return slices.ContainsFunc(planted, func(p pair) bool {
				return slices.Contains(included, p.a) && slices.Contains(included, p.b)
			})
		}
		got, err := taste.Bisect(n, func(included []int) (bool, error) {
			steps++
			if !slices.IsSorted(included) {
				t.Fatalf("included %v", included)
			}
			return bad(included), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if most := (taste.MaxCulprits + 1) * (int(math.Log2(float64(n))) + 2); steps > most {
			t.Fatalf("%d steps, more than %d", steps, most)
		}
		var rest []int
		for i := range n {
			if !slices.Contains(got, i) {
				rest = append(rest, i)
			}
		}
		if bad(rest) {
			t.Fatalf("without %v it is still bad", got)
		}
		for _, c := range got {
			if !slices.ContainsFunc(planted, func(p pair) bool { return max(p.a, p.b) == c }) {
				t.Fatalf("%d is named and innocent", c)
			}
		}
	})
}

func TestBisectGivesUp(t *testing.T) {
	got, err := taste.Bisect(100, func([]int) (bool, error) { return true, nil })
	if !errors.Is(err, taste.ErrUnresolved) || len(got) != taste.MaxCulprits {
		t.Errorf("got %d culprits, %v", len(got), err)
	}
	broken := errors.New("broken")
	if _, err := taste.Bisect(100, func(included []int) (bool, error) {
		if len(included) < 50 {
			return false, broken
		}
		return true, nil
	}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func run(t *testing.T, change func(*taste.Options)) (*taste.Taster, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "taste") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	opts := taste.Options{Binary: testbed.Envoy(t), Dir: dir}
	if change != nil {
		change(&opts)
	}
	taster, err := taste.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- taster.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "envoy.log")); err == nil && t.Failed() {
			t.Logf("envoy's log:\n%s", b)
		}
		_ = os.RemoveAll(dir)
	})
	return taster, dir
}

// snapshot has a listener with TLS on a port that cannot be bound, an upstream
// with DNS and one with endpoints, and a route for each path.
func snapshot(t *testing.T, paths ...string) *projector.Snapshot {
	t.Helper()
	var updates []projector.Update
	add := func(typ projector.ResourceType) func(r projector.Resource, err error) {
		return func(r projector.Resource, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			updates = append(updates, projector.Update{Type: typ, Name: r.Name, Resource: &r})
		}
	}
	add(projector.Upstreams)(envoy.Upstream(ir.Upstream{
		Name: "dns", Discovery: ir.DiscoverDNS, Hosts: []ir.HostPort{{Host: "nowhere.invalid", Port: 80}},
		DNS: &ir.DNS{V4: true}, Connect: time.Second,
	}))
	add(projector.Upstreams)(envoy.Upstream(ir.Upstream{
		Name: "eds", Discovery: ir.DiscoverEndpoints, Endpoints: "set", Connect: time.Second,
	}))
	add(projector.EndpointNeeds)(envoy.EndpointNeed(ir.EndpointSet{Name: "set"}))
	add(projector.SecretNeeds)(envoy.SecretNeed(ir.SecretRef{Name: "cert", Use: ir.UseCertificate}))
	add(projector.SecretNeeds)(envoy.SecretNeed(ir.SecretRef{Name: "ca", Use: ir.UseCA}))
	host := ir.VirtualHost{Name: "all", Domains: []string{"*"}}
	for _, p := range paths {
		host.Routes = append(host.Routes, ir.Route{
			Name: p, Match: ir.Match{Path: p, PathKind: ir.PathRegex}, Action: ir.Action{Forward: []ir.Weighted{{Upstream: "eds", Weight: 1}}},
		})
	}
	add(projector.Routes)(envoy.Routes(ir.RouteTable{Name: "table", Sentinel: true, Hosts: []ir.VirtualHost{host}}))
	add(projector.Listeners)(envoy.Listener(ir.Listener{
		Name: "listener", Address: "192.0.2.1", Port: 443, InspectTLS: true,
		Chains: []ir.Chain{{
			Name: "https", TLSOnly: true,
			TLS:  &ir.ServerTLS{Certificates: []string{"cert"}, ClientCA: "ca", RequireCert: true},
			HTTP: &ir.HTTP{Routes: "table", StatsPrefix: "test"},
		}},
	}))
	return projector.EmptySnapshot().With(updates)
}

// tooLarge is a regular expression that Envoy's limit forbids, and we do not.
const tooLarge = "/x.{900}"

func good(t *testing.T, taster *taste.Taster, s *projector.Snapshot) {
	t.Helper()
	r, err := taster.Taste(t.Context(), s)
	if err != nil || !r.OK {
		t.Fatalf("got %+v, %v", r, err)
	}
	t.Logf("taken after %s", r.Took)
}

func TestTaste(t *testing.T) {
	taster, _ := run(t, nil)
	good(t, taster, snapshot(t, "/a"))
	r, err := taster.Taste(t.Context(), snapshot(t, "/a", tooLarge, "/c"))
	if err != nil || r.OK || r.Type != projector.Routes || !slices.Equal(r.Resources, []string{"table"}) || !strings.Contains(r.Message, "program size") {
		t.Fatalf("got %+v, %v", r, err)
	}
	good(t, taster, snapshot(t, "/a", "/c"))
	good(t, taster, snapshot(t, "/a", "/c"))

	// Two bad ones of twenty are found.
	bad := []int{4, 17}
	got, err := taster.Culprits(t.Context(), 20, func(included []int) (*projector.Snapshot, error) {
		var paths []string
		for _, i := range included {
			p := fmt.Sprintf("/%d", i)
			if slices.Contains(bad, i) {
				p += tooLarge
			}
			paths = append(paths, p)
		}
		return snapshot(t, paths...), nil
	})
	if err != nil || !cmp.Equal(got, bad) {
		t.Errorf("got culprits %v, %v, want %v", got, err, bad)
	}
	good(t, taster, snapshot(t, "/b"))
	// What is no configuration at all is refused without asking.
	r, err = taster.Taste(t.Context(), snapshot(t).With([]projector.Update{{Type: projector.Upstreams, Name: "x", Resource: &projector.Resource{Name: "x", Bytes: []byte{0xff}}}}))
	if err != nil || r.OK || r.Message == "" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// TestFirstTasteIsBad shows that a taster that took nothing yet recovers.
func TestFirstTasteIsBad(t *testing.T) {
	taster, _ := run(t, nil)
	for range 2 { // it is as bad the second time
		if r, err := taster.Taste(t.Context(), snapshot(t, tooLarge)); err != nil || r.OK {
			t.Fatalf("got %+v, %v", r, err)
		}
	}
	got, err := taster.Culprits(t.Context(), 1, func(included []int) (*projector.Snapshot, error) {
		return snapshot(t, []string{tooLarge, "/a"}[1-len(included)]), nil
	})
	if err != nil || !slices.Equal(got, []int{0}) {
		t.Errorf("got culprits %v, %v, want the only one", got, err)
	}
	good(t, taster, snapshot(t, "/b"))
}

// pid reads which process the taster's Envoy is.
func pid(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "envoy.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r struct{ PID int }
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return r.PID
}

func TestEnvoyDies(t *testing.T) {
	taster, dir := run(t, nil)
	good(t, taster, snapshot(t, "/a"))
	victim := pid(t, dir)
	if err := syscall.Kill(victim, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	type result struct {
		taste.Result
		err error
	}
	done := make(chan result, 1)
	go func() {
		r, err := taster.Taste(t.Context(), snapshot(t, "/b"))
		done <- result{r, err}
	}()
	// It dies before the taste begins, and the next one tastes, or in it.
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.err != nil || !r.OK && !r.Crashed {
		t.Errorf("got %+v", r)
	}
	good(t, taster, snapshot(t, "/c"))
}

func TestEnvoyHangs(t *testing.T) {
	taster, dir := run(t, func(o *taste.Options) { o.Limit = 5 * time.Second })
	good(t, taster, snapshot(t, "/a"))
	if err := syscall.Kill(pid(t, dir), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if r, err := taster.Taste(ctx, snapshot(t, "/b")); err == nil || r.OK {
		t.Errorf("got %+v, %v", r, err)
	}
	good(t, taster, snapshot(t, "/c"))
}

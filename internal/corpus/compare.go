package corpus

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// Compare lists the differences between an expectation and an observation, in a stable order; none means that they
// agree. Maps and lists of the expectation are subsets. Header names in ignore are not compared.
func Compare(want, got *Expect, ignore ...string) []string {
	c := comparison{ignore: ignore}
	if want.Distribution != nil {
		c.distribution(want, got)
		return c.differences
	}
	c.same("error", want.Error, got.Error)
	c.same("status", want.Status, got.Status)
	if c.same("backend", want.Backend, got.Backend) && want.BackendPort != 0 {
		c.same("backend port", want.BackendPort, got.BackendPort)
	}
	c.headers("response header", want.ResponseHeaders, got.ResponseHeaders)
	for _, name := range want.ResponseHeadersAbsent {
		if v, ok := got.ResponseHeaders[name]; ok && !slices.Contains(ignore, name) {
			c.add("response header %s: want it absent, got %q", name, v)
		}
	}
	for _, name := range want.ResponseHeaderCase {
		if !slices.Contains(got.ResponseHeaderCase, name) {
			c.add("response header %s: not spelled so", name)
		}
	}
	if want.Body != "" {
		c.same("body", want.Body, got.Body)
	}
	c.same("grpc-status", want.GRPCStatus, got.GRPCStatus)
	c.same("server certificate", want.ServerCert, got.ServerCert)
	c.same("alpn", want.ALPN, got.ALPN)
	c.upstream(want.Upstream, got.Upstream)
	if !maps.Equal(want.Hits, got.Hits) {
		c.add("requests per backend: want %v, got %v", want.Hits, got.Hits)
	}
	c.side(want.Side, got.Side)
	return c.differences
}

type comparison struct {
	ignore      []string
	differences []string
}

func (c *comparison) add(format string, args ...any) {
	c.differences = append(c.differences, fmt.Sprintf(format, args...))
}

func (c *comparison) same(what string, want, got any) bool {
	if want == got {
		return true
	}
	w, g := parting(fmt.Sprint(want), fmt.Sprint(got))
	c.add("%s: want %.120q, got %.120q", what, w, g)
	return false
}

// parting drops what two long texts have in common at their beginning, but for a little, which shows where they part.
func parting(a, b string) (string, string) {
	const context = 30 // bytes
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	if n <= 2*context {
		return a, b
	}
	return "…" + a[n-context:], "…" + b[n-context:]
}

func (c *comparison) distribution(want, got *Expect) {
	const rounding = 1e-9
	keys := map[string]bool{}
	for k := range want.Distribution {
		keys[k] = true
	}
	for k := range got.Distribution {
		keys[k] = true
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if w, g := want.Distribution[k], got.Distribution[k]; math.Abs(w-g) > want.Tolerance+rounding {
			c.add("share of %s: want %.2f±%.2f, got %.2f", k, w, want.Tolerance, g)
		}
	}
	if want.DistinctEndpoints > 0 {
		c.same("distinct endpoints", want.DistinctEndpoints, got.DistinctEndpoints)
	}
}

func (c *comparison) headers(what string, want, got map[string]Values) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		w := want[name]
		g, ok := got[name]
		switch {
		case slices.Contains(c.ignore, name):
		case !ok:
			c.add("%s %s: want %q, absent", what, name, w)
		case len(w) == 1 && w[0] == "*":
		case !slices.Equal(w, g):
			c.add("%s %s: want %q, got %q", what, name, w, g)
		}
	}
}

func (c *comparison) upstream(want, got *UpstreamRequest) {
	if want == nil {
		return
	}
	if got == nil {
		c.add("upstream request: none came")
		return
	}
	for _, f := range []struct{ what, want, got string }{
		{"upstream method", want.Method, got.Method},
		{"upstream path", want.Path, got.Path},
		{"upstream authority", want.Authority, got.Authority},
		{"upstream protocol", want.Protocol, got.Protocol},
	} {
		if f.want != "" {
			c.same(f.what, f.want, f.got)
		}
	}
	c.same("upstream tls", want.TLS, got.TLS)
	c.same("upstream sni", want.TLSSNI, got.TLSSNI)
	c.same("upstream client certificate", want.TLSClient, got.TLSClient)
	c.headers("upstream header", want.Headers, got.Headers)
	for _, name := range want.Absent {
		if !slices.Contains(got.Absent, name) && !slices.Contains(c.ignore, name) {
			c.add("upstream header %s: want it absent", name)
		}
	}
}

func (c *comparison) side(want, got []*SideRequest) {
	if len(want) != len(got) {
		c.add("side requests: want %d, got %d", len(want), len(got))
		return
	}
	for i, w := range want {
		g := got[i]
		what := fmt.Sprintf("side request %d", i)
		if !c.same(what, w.line(), g.line()) {
			continue
		}
		for _, k := range slices.Sorted(maps.Keys(w.Detail)) {
			c.same(what+" "+k, w.Detail[k], g.Detail[k])
		}
		c.headers(what+" header", w.Headers, g.Headers)
	}
}

func (r *SideRequest) line() string {
	return fmt.Sprintf("%s %s %s %s%s", r.Backend, r.Kind, r.Method, r.Host, r.Path)
}

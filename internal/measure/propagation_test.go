package measure_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// rounds are at least how many changes each side makes in one run of the
// benchmark, after warmUp of them.
const (
	rounds = 40
	warmUp = 5
)

// quiet is how long the machine is left alone before each change, so that what
// follows one (proofs, verdicts, trimming) is not counted with the next.
const quiet = 60 * time.Millisecond

// BenchmarkPropagation changes a Mapping's service and measures from the rename
// of its file to the first request that the other upstream answers; and, in
// turns with it, the floor: the same durable writes and the push of bytes that
// were compiled before. In cleartext one host's change rewrites the route table
// of its listener, and most of both is Envoy's.
func BenchmarkPropagation(b *testing.B) {
	for _, tls := range []bool{true, false} {
		for _, n := range []int{10, 1_000, 10_000} {
			kind := "cleartext"
			if tls {
				kind = "tls"
			}
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) { propagate(b, n, tls) })
		}
	}
}

func propagate(b *testing.B, n int, tls bool) {
	e := newEstate(b, n, tls)
	p := startProduct(b, e)
	f := startFloor(b, e)
	var product, least []time.Duration
	round := func() {
		first, second := func() { product = append(product, p.next(b)) }, func() { least = append(least, f.next(b)) }
		if len(product)%2 == 1 {
			first, second = second, first
		}
		nap(quiet)
		first()
		nap(quiet)
		second()
	}
	for range warmUp {
		round()
	}
	product, least, f.writes, f.pushes = nil, nil, nil, nil
	begin := p.change + 1
	for b.Loop() {
		round()
	}
	for len(product) < rounds {
		round()
	}
	b.ReportMetric(0, "ns/op") // a round, pauses included: it says nothing
	for name, d := range map[string][]time.Duration{"product": product, "floor": least} {
		b.ReportMetric(ms(d, 50), name+"-p50-ms")
		b.ReportMetric(ms(d, 99), name+"-p99-ms")
	}
	b.ReportMetric(ms(product, 50)/ms(least, 50), "product/floor")
	b.ReportMetric(ms(f.writes, 50), "floor-writes-ms")
	b.ReportMetric(ms(f.pushes, 50), "floor-push-ms")
	took := p.breakdown(b, begin)
	for _, s := range stages {
		b.ReportMetric(ms(took[s], 50), "to-"+s+"-ms")
	}
}

// ms returns a percentile in milliseconds, 0 of nothing.
func ms(d []time.Duration, percent int) float64 {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	return float64(sorted[(len(sorted)-1)*percent/100]) / 1e6
}

package hub

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// Metrics are the hub's. A nil *Metrics counts nothing.
type Metrics struct {
	events      *prometheus.CounterVec
	compile     prometheus.Histogram
	propagation prometheus.Histogram
	resources   *prometheus.GaugeVec
}

// NewMetrics registers the hub's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chancery_events_total", Help: "Events folded since the process began.",
		}, []string{"cluster", "type"}),
		compile: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "chancery_compile_duration_seconds", Help: "Time of one compile.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		}),
		propagation: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "chancery_propagation_seconds", Help: "From the observation of a change until every Envoy of the fleet proved that it serves it.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 14),
		}),
		resources: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "chancery_snapshot_resources", Help: "Resources in the newest compiled snapshot.",
		}, []string{"type"}),
	}
	reg.MustRegister(m.events, m.compile, m.propagation, m.resources)
	return m
}

func (m *Metrics) event(e ledger.Event) {
	if m == nil {
		return
	}
	name := "decision"
	if !e.Type.IsDecision() {
		name = string(e.Type)
	}
	m.events.WithLabelValues(string(e.ID.Cluster), name).Inc()
}

func (m *Metrics) compiled(d time.Duration, r projector.Result) {
	if m == nil {
		return
	}
	m.compile.Observe(d.Seconds())
	for _, t := range projector.ResourceTypes {
		m.resources.WithLabelValues(t.String()).Set(float64(r.Snapshot.Len(t)))
	}
}

func (m *Metrics) propagated(d time.Duration) {
	if m != nil && d > 0 {
		m.propagation.Observe(d.Seconds())
	}
}

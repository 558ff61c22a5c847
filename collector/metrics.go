package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/chancery-dev/chancery/ledger"
)

// Metrics are a collector's metrics, by cluster. One value serves all collectors of a process.
type Metrics struct {
	events   *prometheus.CounterVec // by cluster
	failures *prometheus.CounterVec // by cluster and what failed
	publish  *prometheus.HistogramVec
	bytes    *prometheus.GaugeVec
	limit    *prometheus.GaugeVec
	epoch    *prometheus.GaugeVec
	idle     *prometheus.GaugeVec
	sent     *prometheus.CounterVec
}

// NewMetrics returns metrics that are registered with reg, or with none if it is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	cluster := []string{"cluster"}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "chancery_collector_" + name, Help: help}, cluster)
	}
	m := &Metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chancery_collector_events_total", Help: "Events made and kept in the outbox.",
		}, cluster),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chancery_collector_published_total", Help: "Events that the stream has acknowledged, repeats included.",
		}, cluster),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chancery_collector_failures_total", Help: "Failed tries, by what was tried.",
		}, []string{"cluster", "what"}),
		publish: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "chancery_collector_publish_seconds", Help: "Time until the stream has a batch on disk, retries included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, cluster),
		bytes: gauge("outbox_bytes", "Bytes of events in the outbox that the hub has not yet committed."),
		limit: gauge("outbox_limit_bytes", "Bytes of events that the outbox takes."),
		epoch: gauge("epoch", "Epoch of the collector."),
		idle:  gauge("idle", "1 if everything that the site holds has been told."),
	}
	if reg != nil {
		reg.MustRegister(m.events, m.sent, m.failures, m.publish, m.bytes, m.limit, m.epoch, m.idle)
	}
	return m
}

func (m *Metrics) persisted(cluster ledger.ClusterName, b Batch) {
	m.events.WithLabelValues(string(cluster)).Add(float64(len(b.Append)))
}

func (m *Metrics) published(cluster ledger.ClusterName, n int, took time.Duration) {
	m.sent.WithLabelValues(string(cluster)).Add(float64(n))
	m.publish.WithLabelValues(string(cluster)).Observe(took.Seconds())
}

func (m *Metrics) state(cluster ledger.ClusterName, core *Core, used, limit int64) {
	c := string(cluster)
	epoch, _ := core.Epoch()
	idle := 0.0
	if core.Idle() {
		idle = 1
	}
	m.bytes.WithLabelValues(c).Set(float64(used))
	m.limit.WithLabelValues(c).Set(float64(limit))
	m.epoch.WithLabelValues(c).Set(float64(epoch))
	m.idle.WithLabelValues(c).Set(idle)
}

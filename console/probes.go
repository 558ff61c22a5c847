package console

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one thing that readiness rests on. Err says why it does not hold,
// Detail what it was found to be.
type Check struct {
	Name   string
	Err    error
	Detail string
}

// Probes answers /livez and /readyz, without authentication: neither says more
// than which checks there are, and with ?verbose how they stand. ready must be
// quick and safe to call at any time.
func Probes(ready func() []Check) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) { answerChecks(w, r, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { answerChecks(w, r, ready()) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { answerChecks(w, r, nil) })
	return mux
}

func answerChecks(w http.ResponseWriter, r *http.Request, checks []Check) {
	status := http.StatusOK
	var b strings.Builder
	_, verbose := r.URL.Query()["verbose"]
	for _, c := range checks {
		switch {
		case c.Err != nil:
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&b, "FAIL %s: %v\n", c.Name, c.Err)
		case verbose:
			fmt.Fprintf(&b, "ok   %s: %s\n", c.Name, c.Detail)
		}
	}
	if status == http.StatusOK {
		b.WriteString("ok\n")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(b.String())) // the client is gone
}

// Metrics answers /metrics from a registry.
func Metrics(g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{MaxRequestsInFlight: 8}))
	return mux
}

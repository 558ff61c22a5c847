package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// maxAdminBytes bounds what is read of an answer of the admin interface.
const maxAdminBytes = 64 << 20

// Admin is an Envoy's admin interface on a Unix socket.
type Admin struct {
	client *http.Client
}

// NewAdmin returns a client of the socket. Close it when it is not needed any
// more.
func NewAdmin(socket string) *Admin {
	return &Admin{client: &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			MaxIdleConns: 2,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
		},
	}}
}

// Close closes idle connections.
func (a *Admin) Close() { a.client.CloseIdleConnections() }

// Get returns the body of an answer with status 200.
func (a *Admin) Get(ctx context.Context, path string) ([]byte, error) {
	return a.do(ctx, http.MethodGet, path)
}

// Post asks for something to be done.
func (a *Admin) Post(ctx context.Context, path string) ([]byte, error) {
	return a.do(ctx, http.MethodPost, path)
}

func (a *Admin) do(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("envoy admin %s: %w", path, err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("envoy admin %s: %w", path, err)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminBytes))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("envoy admin %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("envoy admin %s: status %d", path, resp.StatusCode)
	}
	return b, nil
}

// Stats returns the counters and gauges whose names match the regular
// expression.
func (a *Admin) Stats(ctx context.Context, filter string) (map[string]uint64, error) {
	return a.stats(ctx, "format=json&filter="+url.QueryEscape(filter))
}

func (a *Admin) stats(ctx context.Context, query string) (map[string]uint64, error) {
	b, err := a.Get(ctx, "/stats?"+query)
	if err != nil {
		return nil, err
	}
	var out struct {
		Stats []struct {
			Name  string          `json:"name"`
			Value json.RawMessage `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("envoy admin stats: %w", err)
	}
	stats := map[string]uint64{}
	for _, s := range out.Stats {
		var v uint64
		if json.Unmarshal(s.Value, &v) == nil { // histograms and texts are others
			stats[s.Name] = v
		}
	}
	return stats, nil
}

// Warming returns how many upstreams and listeners wait for something before
// they are used. The Envoy looks at all its gauges for it, on the thread that
// takes configuration: with thousands of upstreams that takes tens of
// milliseconds.
func (a *Admin) Warming(ctx context.Context) (int, error) {
	stats, err := a.stats(ctx, "format=json&type=Gauges&filter="+url.QueryEscape(`^(cluster_manager\.warming_clusters|listener_manager\.total_listeners_warming)$`))
	if err != nil {
		return 0, err
	}
	n := 0
	for _, name := range []string{"cluster_manager.warming_clusters", "listener_manager.total_listeners_warming"} {
		v, ok := stats[name]
		if !ok {
			return 0, fmt.Errorf("envoy admin stats: no %s", name)
		}
		n += int(v)
	}
	return n, nil
}

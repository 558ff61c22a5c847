package console_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/shelf"
)

// patience bounds every wait of these tests.
const patience = 60 * time.Second

// install is a real hub on a real ledger and shelf, with a stream and an edge
// that are nothing but this.
type install struct {
	t         *testing.T
	authority *pki.Authority
	store     *boltstore.Store
	shelf     *shelf.Shelf
	hub       *hub.Hub
	east      *site
	url       string

	mu     sync.Mutex // guards what follows
	stream ledgertest.Stream
	status federation.EdgeStatus // what the edge says, again and again
}

// say makes the edge say something from now on.
func (in *install) say(s federation.EdgeStatus) {
	in.mu.Lock()
	in.status = s
	in.mu.Unlock()
	in.hub.Status(s)
}

type shelved struct{ *shelf.Shelf }

func (s shelved) Put(snapshot *projector.Snapshot) error {
	return s.Shelf.Put(snapshot, shelf.Provenance{})
}

// append puts records into the stream and the ledger.
func (in *install) append(ms ...ledger.Incoming) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	results, err := in.store.Append(context.Background(), in.stream.Next(ms...))
	if err != nil {
		return err
	}
	for _, r := range results {
		if r.Outcome != ledger.Append {
			return errors.New(r.Reason)
		}
	}
	return nil
}

// PublishDecisions makes an install the hub's stream.
func (in *install) PublishDecisions(_ context.Context, ds []hub.Published) error {
	var ms []ledger.Incoming
	for _, d := range ds {
		ms = append(ms, ledger.Incoming{Record: d.Record, Subject: d.Subject})
	}
	return in.append(ms...)
}

func start(t *testing.T) *install {
	t.Helper()
	dir := t.TempDir()
	in := &install{t: t, east: &site{cluster: "east"}, stream: ledgertest.Stream{Incarnation: "one"}}
	var err error
	must := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in.authority, err = pki.Init(filepath.Join(dir, "pki"))
	must()
	in.store, err = boltstore.Open(filepath.Join(dir, "ledger.db"), boltstore.Options{Hub: ledgertest.Public("hub"), Install: "test"})
	must()
	in.shelf, err = shelf.Open(filepath.Join(dir, "shelf.db"))
	must()
	err = in.append(ledgertest.NewHub().StreamBegun("one", 0, ledger.DigestOf(nil)))
	must()
	settings := federation.DefaultSettings()
	settings.Rollout.Soak = 0
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	in.hub = hub.New(hub.Config{
		Instance: "hub-a", Build: "test", Key: ledgertest.Key("hub"), Fleet: federation.DefaultFleet, Settings: settings,
		Sites:  []ledger.SiteAddedData{{Cluster: "east", Key: ledgertest.Public("east"), Site: "dir:east"}},
		Ledger: in.store, Publisher: in, Shelf: shelved{in.shelf}, Logger: log, Metrics: hub.NewMetrics(prometheus.NewRegistry()),
		Incarnation: func() string { return "one" },
		Announce:    func(h projector.SignedHead) { in.say(serves(h.Head)) },
	})
	handler := console.New(console.Config{Hub: in.hub, Ledger: in.store, Shelf: in.shelf, Build: "test", Logger: log})
	keeper, err := in.authority.Keep(pki.Hub, "api", []string{"127.0.0.1"}, time.Hour)
	must()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must()
	in.url = "https://" + l.Addr().String()
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: patience}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := in.hub.Run(ctx); err != nil {
			t.Errorf("hub: %v", err)
		}
	})
	wait.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				in.mu.Lock()
				s := in.status
				in.mu.Unlock()
				if s.Edge != "" {
					in.hub.Status(s)
				}
			}
		}
	})
	wait.Go(func() { _ = srv.Serve(tls.NewListener(l, keeper.ServerTLS(pki.Roles...))) })
	t.Cleanup(func() {
		cancel()
		_ = srv.Close()
		wait.Wait()
		if err := errors.Join(in.store.Close(), in.shelf.Close()); err != nil {
			t.Error(err)
		}
	})
	in.waitStatus(func(s console.Status) bool { return len(s.Sites) == 1 })
	in.tell(in.east.begin())
	return in
}

// serves is what an edge says whose one Envoy serves a head.
func serves(h projector.Head) federation.EdgeStatus {
	return federation.EdgeStatus{
		Edge: "edge-1", Fleet: h.Fleet, Ring: h.Ring, Generation: h.Generation, Revision: h.Revision, Fingerprint: h.Fingerprint,
		Envoys: []federation.EnvoyStatus{{Node: "envoy-1", Kind: projector.Served, Generation: h.Generation}},
	}
}

func (in *install) tell(ms ...ledger.Incoming) {
	in.t.Helper()
	if err := in.append(ms...); err != nil {
		in.t.Fatal(err)
	}
}

// client returns a client with a certificate of the role.
func (in *install) client(role pki.Role) *console.Client {
	in.t.Helper()
	credentials, err := in.authority.Issue(role, "tester", nil, time.Hour)
	if err != nil {
		in.t.Fatal(err)
	}
	c, err := console.NewClient(pki.ClientConfig{Server: in.url, Credentials: credentials})
	if err != nil {
		in.t.Fatal(err)
	}
	return c
}

// web returns an HTTP client with a certificate of the role.
func (in *install) web(role pki.Role) *http.Client {
	in.t.Helper()
	credentials, err := in.authority.Issue(role, "tester", nil, time.Hour)
	if err != nil {
		in.t.Fatal(err)
	}
	k, err := pki.Hold(credentials, time.Now)
	if err != nil {
		in.t.Fatal(err)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: k.ClientTLS(pki.Hub), DisableKeepAlives: true}, Timeout: patience}
}

// waitStatus waits for a status and returns it. An edge says all the time what
// it serves.
func (in *install) waitStatus(ok func(console.Status) bool) console.Status {
	in.t.Helper()
	c := in.client(pki.Operator)
	deadline := time.Now().Add(patience)
	for {
		s, err := c.Status(in.t.Context(), "")
		if err != nil {
			in.t.Fatal(err)
		}
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			b, _ := json.MarshalIndent(s, "", "  ")
			in.t.Fatalf("the status that was waited for did not come; it is %s", b)
		}
		updated := in.store.Updated()
		select {
		case <-updated:
		case <-time.After(20 * time.Millisecond): // edges and ages are not in the ledger
		}
	}
}

// served waits until a revision is the head, served and soaked.
func (in *install) served(revision uint64) console.Status {
	in.t.Helper()
	return in.waitStatus(func(s console.Status) bool {
		return s.Head != nil && s.Head.Revision == revision && s.InSync && s.LastGood >= min(revision, s.Newest)
	})
}

// site makes the events of a cluster.
type site struct {
	cluster ledger.ClusterName
	n       uint64
	items   []ledger.SyncItem
}

func (s *site) sign(e ledger.Event) ledger.Incoming {
	e.ID = ledger.Origin{Cluster: s.cluster, Epoch: 1, Instance: "east-a", N: s.n}
	e.Source, e.Time = "/collector/"+string(s.cluster), time.Now().UTC()
	s.n++
	b, err := e.Encode()
	if err != nil {
		panic(err)
	}
	return ledger.Incoming{Record: ledger.Sign(b, ledgertest.Key(string(s.cluster))), Subject: e.Subject}
}

func (s *site) begin() ledger.Incoming {
	return s.sign(ledger.Event{Type: ledger.SyncBegin, Subject: ledger.SyncSubject(s.cluster), Data: json.RawMessage(`{}`)})
}

func (s *site) end() ledger.Incoming {
	slices.SortFunc(s.items, func(a, b ledger.SyncItem) int { return a.Object.Compare(b.Object) })
	data, err := json.Marshal(ledger.SyncEndData{Count: len(s.items), Inventory: ledger.InventoryDigest(s.items)})
	if err != nil {
		panic(err)
	}
	return s.sign(ledger.Event{Type: ledger.SyncEnd, Subject: ledger.SyncSubject(s.cluster), Data: data})
}

// put records an object, given as the parts of it that are not its identity.
func (s *site) put(apiVersion, kind, name string, rest map[string]any) ledger.Incoming {
	group := ""
	if apiVersion != "v1" {
		group = "getambassador.io"
	}
	k := ledger.ObjectKey{Cluster: s.cluster, Group: group, Kind: kind, Namespace: "default", Name: name}
	obj := map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name, "namespace": "default"}}
	for field, v := range rest {
		obj[field] = v
	}
	data, err := json.Marshal(obj)
	if err != nil {
		panic(err)
	}
	digest := ledger.DigestOf(data)
	s.items = slices.DeleteFunc(s.items, func(it ledger.SyncItem) bool { return it.Object == k })
	s.items = append(s.items, ledger.SyncItem{Object: k, Digest: digest})
	return s.sign(ledger.Event{
		Type: ledger.ObjectPut, Subject: k.Subject(), Object: k, ObjectDigest: digest,
		Actor: ledger.Actor{Name: "alice", Source: "file"}, Data: data,
	})
}

const v3 = "getambassador.io/v3alpha1"

func (s *site) mapping(name, service string) ledger.Incoming {
	return s.put(v3, "Mapping", name, map[string]any{"spec": map[string]any{"hostname": "*", "prefix": "/" + name + "/", "service": service}})
}

// gateway records what routes hang on, a Secret, and a first Mapping.
func (s *site) gateway() []ledger.Incoming {
	return []ledger.Incoming{
		s.put(v3, "Listener", "http", map[string]any{"spec": map[string]any{
			"port": 8080, "protocol": "HTTP", "securityModel": "XFP", "hostBinding": map[string]any{"namespace": map[string]any{"from": "ALL"}},
		}}),
		s.put(v3, "Host", "all", map[string]any{"spec": map[string]any{"hostname": "*", "requestPolicy": map[string]any{"insecure": map[string]any{"action": "Route"}}}}),
		s.put("v1", "Service", "web", map[string]any{"spec": map[string]any{"clusterIP": "10.0.0.1", "ports": []any{map[string]any{"port": 80}}}}),
		s.put("v1", "Secret", "tls", map[string]any{
			"type": "kubernetes.io/tls", "facts": map[string]any{"keys": map[string]any{"tls.key": "hmac-sha256:00"}},
			// A collector never tells this; the API does not show it if one did.
			"data": map[string]any{"tls.key": "c2VjcmV0LWtleS1ieXRlcw=="},
		}),
		s.mapping("web", "web"),
		s.end(),
	}
}

func (in *install) key() ed25519.PublicKey { return ledgertest.Public("hub") }

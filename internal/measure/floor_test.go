package measure_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/collector/dir"
	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/internal/testbed"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/ledger/natsstream"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
	"github.com/chancery-dev/chancery/xds"
	"github.com/chancery-dev/chancery/xds/cache"
	"github.com/chancery-dev/chancery/xds/process"
)

// floor is the least that a change costs when it is recorded as durably as the
// product does: it publishes the event to JetStream (synced), appends it to a
// ledger (synced), does the same with a candidate and a head, and pushes bytes
// that were compiled before. It watches nothing, compiles nothing, tastes
// nothing, and does one thing after the other in one goroutine.
type floor struct {
	e         *estate
	publisher *natsstream.Publisher
	store     *boltstore.Store
	cache     *cache.Cache
	hub       *ledgertest.Hub
	collector *ledgertest.Collector
	stream    string // incarnation
	compiler  *compile.Compiler
	normal    collector.Normaliser
	snapshot  *projector.Snapshot
	*poller
	change int
	pushes []time.Duration // of each change, how long the push took
	writes []time.Duration // of each change, how long the durable writes took
}

func startFloor(tb testing.TB, e *estate) *floor {
	tb.Helper()
	base := shortDir(tb)
	f := &floor{e: e, hub: ledgertest.NewHub(), collector: ledgertest.NewCollector("east"), normal: collector.Normaliser{Cluster: "east", DigestKey: make([]byte, 32)}}
	quiet := slog.New(slog.DiscardHandler)

	server, err := natsstream.StartServer(natsstream.ServerOptions{StoreDir: filepath.Join(base, "nats"), Logger: quiet})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(server.Shutdown)
	conn, err := natsstream.Connect(natsstream.ConnectOptions{Name: "floor", Server: server, Logger: quiet})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(conn.Close)
	f.publisher = natsstream.NewPublisher(conn, 0)
	if f.stream, err = natsstream.EnsureStream(tb.Context(), conn, natsstream.StreamOptions{}); err != nil {
		tb.Fatal(err)
	}
	if f.store, err = boltstore.Open(filepath.Join(base, "ledger.db"), boltstore.Options{Hub: ledgertest.Public("hub"), Logger: quiet}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = f.store.Close() })
	for _, in := range append(ledgertest.Opening(f.hub, f.stream, "east"), f.collector.Begin()) {
		f.record(tb, in)
	}

	port := freePort(tb)
	site := filepath.Join(base, "site")
	if err := os.Mkdir(site, 0o700); err != nil {
		tb.Fatal(err)
	}
	e.write(tb, site, port)
	f.compile(tb, site)
	f.serve(tb, base)
	f.poller = startPoller(tb, e, port, e.answer(0))
	return f
}

// record makes one record durable in stream and ledger.
func (f *floor) record(tb testing.TB, in ledger.Incoming) ledger.Seq {
	tb.Helper()
	ack, err := f.publisher.Publish(tb.Context(), natsstream.Message{Record: in.Record, Subject: in.Subject, MsgID: strconv.Itoa(int(f.store.Size()) + 1)})
	if err != nil {
		tb.Fatal(err)
	}
	in.Incarnation, in.StreamSeq = f.stream, ack.StreamSeq
	results, err := f.store.Append(tb.Context(), []ledger.Incoming{in})
	if err != nil {
		tb.Fatal(err)
	}
	if results[0].Outcome != ledger.Append {
		tb.Fatalf("the floor's record is not appended: %s", results[0].Reason)
	}
	return f.store.Size()
}

// compile compiles the site.
func (f *floor) compile(tb testing.TB, site string) {
	tb.Helper()
	contents, err := dir.Read(site)
	if err != nil {
		tb.Fatal(err)
	}
	var objects []*projector.Object
	for _, o := range contents.Objects {
		objects = append(objects, f.object(tb, o.Raw, len(objects)+1))
	}
	settings := projector.DefaultSettings()
	settings.BindAddress = "127.0.0.1"
	result, c := compile.Full(settings, slices.Values(objects), projector.Overlay{})
	f.compiler, f.snapshot = c, result.Snapshot
}

func (f *floor) object(tb testing.TB, raw map[string]any, seq int) *projector.Object {
	tb.Helper()
	o, err := f.normal.Normalise(raw, "site.yaml", "")
	if err != nil {
		tb.Fatal(err)
	}
	return &projector.Object{Key: o.Key, Raw: o.Data, Digest: o.Digest, Seq: ledger.Seq(seq), FirstSeq: ledger.Seq(seq)}
}

// serve starts an Envoy on the snapshot.
func (f *floor) serve(tb testing.TB, base string) {
	tb.Helper()
	f.cache = cache.New(cache.Options{Edge: "floor", Log: slog.New(slog.DiscardHandler)})
	var live []projector.Update
	for need := range f.snapshot.All(projector.SecretNeeds) {
		r, err := envoy.Secret(ir.Secret{Name: need.Name, Chain: f.e.cert.chain, Key: f.e.cert.key}, ir.UseCertificate)
		if err != nil {
			tb.Fatal(err)
		}
		live = append(live, projector.Update{Type: projector.SecretNeeds, Name: need.Name, Resource: &r})
	}
	f.cache.Offer(f.head(1), f.snapshot, live...)
	socket := filepath.Join(base, "ads.sock")
	listener, err := xds.ListenUnix(socket)
	if err != nil {
		tb.Fatal(err)
	}
	bootstrap, err := envoy.BootstrapADS(envoy.ADSOptions{
		NodeID: "floor", NodeCluster: "floor", Socket: socket, Admin: envoy.Admin{Socket: filepath.Join(base, "admin.sock")}, InitialFetch: time.Minute,
	})
	if err != nil {
		tb.Fatal(err)
	}
	proxy, err := process.New(process.Options{Binary: testbed.Envoy(tb), Dir: filepath.Join(base, "envoy"), Bootstrap: bootstrap, Concurrency: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() {
		done <- xds.Serve(ctx, xds.Endpoint{Listener: listener, Registry: xds.Only(f.cache, "floor")})
	}()
	go func() { done <- proxy.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				tb.Error(err)
			}
		}
	})
}

func (f *floor) head(generation uint64) projector.SignedHead {
	return projector.SignedHead{Head: projector.Head{
		Fleet: federation.DefaultFleet, Ring: federation.DefaultRing, Generation: generation, Revision: generation,
		Fingerprint: f.snapshot.Fingerprint(), Why: "rollout",
	}}
}

// next makes the next change and returns how long it took.
func (f *floor) next(tb testing.TB) time.Duration {
	tb.Helper()
	before := f.e.answer(f.change)
	f.change++
	f.precompile(tb)
	head := f.head(uint64(f.change) + 1)
	candidate := federation.Candidate{Fleet: head.Head.Fleet, Revision: head.Head.Revision, Fingerprint: head.Head.Fingerprint, Base: head.Head.Fingerprint, Build: "floor"}
	records := []ledger.Incoming{
		// As large as the event of the real Mapping.
		f.collector.Put("changing", strings.Repeat("x", 150)+strconv.Itoa(f.change)),
		f.hub.Decide(ledger.DecisionType(federation.CandidateDecision), candidate),
		f.hub.Decide(ledger.DecisionType(projector.HeadDecision), head.Head),
	}
	start := time.Now()
	for _, r := range records {
		head.Seq = f.record(tb, r)
	}
	written := time.Now()
	f.cache.Offer(head, f.snapshot)
	pushed := time.Now()
	visible := f.until(tb, f.e.answer(f.change), before)
	f.writes = append(f.writes, written.Sub(start))
	f.pushes = append(f.pushes, pushed.Sub(written))
	return visible.Sub(start)
}

// precompile makes the snapshot of the next change.
func (f *floor) precompile(tb testing.TB) {
	tb.Helper()
	after := f.object(tb, readObject(tb, f.e.manifest(f.change)), 3*f.e.n+f.change)
	f.compiler.Apply([]projector.Change{{Key: after.Key, After: after}})
	f.snapshot = f.compiler.Compile().Snapshot
}

// readObject reads the one object of a manifest as a site does.
func readObject(tb testing.TB, manifest []byte) map[string]any {
	tb.Helper()
	scratch := tb.TempDir()
	put(tb, filepath.Join(scratch, changingFile), manifest)
	contents, err := dir.Read(scratch)
	if err != nil {
		tb.Fatal(err)
	}
	return contents.Objects[0].Raw
}

package stream_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/collector/collectortest"
	"github.com/chancery-dev/chancery/collector/dir"
	"github.com/chancery-dev/chancery/collector/outbox"
	"github.com/chancery-dev/chancery/collector/stream"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/ledger/natsstream"
)

const patience = 60 * time.Second

var quiet = slog.New(slog.DiscardHandler)

// install is a hub on an embedded server: a ledger that follows the stream and talks to collectors.
type install struct {
	t     testing.TB
	hub   *ledgertest.Hub
	srv   *natsstream.Server
	conn  *natsstream.Conn
	pub   *natsstream.Publisher
	store *boltstore.Store

	mu     sync.Mutex
	fold   *collectortest.Fold
	change chan struct{}
}

func TestEndToEnd(t *testing.T) {
	in := newInstall(t)
	site := t.TempDir()
	write(t, site, "a", 0)
	write(t, site, "b", 0)
	box := filepath.Join(t.TempDir(), "outbox.db")

	stop := in.collect(site, box, "i1")
	in.wait(map[string]string{"a": "/0", "b": "/0"})
	write(t, site, "a", 1)
	in.wait(map[string]string{"a": "/1", "b": "/0"})
	stop()

	write(t, site, "c", 0)
	stop = in.collect(site, box, "i2")
	in.wait(map[string]string{"a": "/1", "b": "/0", "c": "/0"})
	stop()

	if err := os.Remove(box); err != nil {
		t.Fatal(err)
	}
	write(t, site, "b", 7)
	stop = in.collect(site, box, "i3")
	in.wait(map[string]string{"a": "/1", "b": "/7", "c": "/0"})

	in.loseStream()
	write(t, site, "c", 9)
	in.wait(map[string]string{"a": "/1", "b": "/7", "c": "/9"})
	stop()
}

func write(t testing.TB, site, name string, version int) {
	t.Helper()
	text := fmt.Sprintf("apiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {name: %s}\nspec: {hostname: '*', prefix: /%d, service: echo}\n", name, version)
	tmp := filepath.Join(site, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(site, name+".yaml")); err != nil {
		t.Fatal(err)
	}
}

// collect runs a collector; the function that it returns ends it.
func (in *install) collect(site, box, instance string) (stop func()) {
	in.t.Helper()
	b, err := outbox.Open(box, collectortest.Cluster, outbox.Options{})
	if err != nil {
		in.t.Fatal(err)
	}
	control := make(chan collector.Control, 64)
	unsubscribe, err := stream.Subscribe(in.conn, collectortest.Cluster, control)
	if err != nil {
		in.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- collector.Run(ctx, collector.Config{
			Cluster: collectortest.Cluster, Key: collectortest.Key(), Instance: instance,
			Site:   dir.NewSite(site, collectortest.Normaliser(), dir.Timing{}),
			Outbox: b, Stream: stream.New(in.conn, in.pub), Control: control, Logger: quiet,
		})
	}()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			in.t.Error(err)
		}
		if err := unsubscribe(); err != nil {
			in.t.Error(err)
		}
		if err := b.Close(); err != nil {
			in.t.Error(err)
		}
	}
}

func (in *install) wait(want map[string]string) {
	in.t.Helper()
	deadline := time.After(patience)
	for {
		in.mu.Lock()
		err := collectortest.Mappings(want)(in.fold)
		change := in.change
		in.mu.Unlock()
		if err == nil {
			return
		}
		select {
		case <-change:
		case <-deadline:
			in.t.Fatal(err)
		}
	}
}

// newInstall starts a hub that knows the cluster.
func newInstall(t testing.TB) *install {
	t.Helper()
	in := &install{t: t, hub: ledgertest.NewHub(), fold: collectortest.NewFold(), change: make(chan struct{})}
	var err error
	if in.srv, err = natsstream.StartServer(natsstream.ServerOptions{StoreDir: t.TempDir(), Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.srv.Shutdown)
	if in.conn, err = natsstream.Connect(natsstream.ConnectOptions{Name: "test", Server: in.srv, Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.conn.Close)
	in.pub = natsstream.NewPublisher(in.conn, 0)
	if in.store, err = boltstore.Open(filepath.Join(t.TempDir(), "ledger.db"), boltstore.Options{
		Hub: ledgertest.Public("hub"), Install: "test", Logger: quiet,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.store.Close(); err != nil {
			t.Error(err)
		}
	})
	in.beginStream()
	for _, d := range []ledger.Incoming{in.hub.TermBegun(), in.hub.Decide(ledger.SiteAdded, ledger.SiteAddedData{
		Cluster: collectortest.Cluster, Key: collectortest.Key().Public().(ed25519.PublicKey), Site: "dir",
	})} {
		if _, err := in.pub.Publish(t.Context(), natsstream.Message{Record: d.Record, Subject: d.Subject, MsgID: string(d.Record.Signature[:8])}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	f := natsstream.NewFollower(in.conn, in.store, natsstream.FollowerOptions{
		CheckEvery: 100 * time.Millisecond, Logger: quiet, OnCommit: in.onCommit,
		OnGap: func(cluster ledger.ClusterName, epoch, n uint64) {
			c := natsstream.Control{Resend: &natsstream.Resend{Epoch: epoch, N: n}}
			if n == 0 {
				c = natsstream.Control{Claim: &natsstream.Claim{Epoch: epoch}}
			}
			in.say(c)
		},
	})
	go func() {
		defer close(ended)
		_ = f.Run(ctx) // returns the context's error
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return in
}

func (in *install) say(c natsstream.Control) {
	if err := natsstream.SendControl(in.conn.Conn, collectortest.Cluster, c); err != nil {
		in.t.Error(err)
	}
}

func (in *install) onCommit(results []ledger.Result) {
	in.mu.Lock()
	for _, r := range results {
		if r.Outcome == ledger.Append && r.Event.ID.Cluster == collectortest.Cluster {
			in.fold.Apply(r.Event)
		}
	}
	close(in.change)
	in.change = make(chan struct{})
	in.mu.Unlock()
	if p, ok := in.store.Admission().Progress(collectortest.Cluster); ok && p.NextN > 0 {
		in.say(natsstream.Control{Trim: &natsstream.Trim{Epoch: p.Epoch, Instance: p.Instance, N: p.NextN - 1}})
	}
}

func (in *install) beginStream() {
	in.t.Helper()
	if _, err := natsstream.EnsureStream(in.t.Context(), in.conn, natsstream.StreamOptions{}); err != nil {
		in.t.Fatal(err)
	}
	root, err := in.store.Root(in.store.Size())
	if err != nil {
		in.t.Fatal(err)
	}
	if _, err := natsstream.Bootstrap(in.t.Context(), in.conn, in.pub, natsstream.Opening{
		Size: in.store.Size(), Root: root,
		Sign: func(d ledger.StreamBegunData) (ledger.Record, error) {
			return in.hub.StreamBegun(d.Incarnation, d.BaseSize, d.BaseRoot).Record, nil
		},
	}); err != nil {
		in.t.Fatal(err)
	}
}

// loseStream deletes the stream and makes it anew.
func (in *install) loseStream() {
	in.t.Helper()
	js, err := jetstream.New(in.conn.Conn)
	if err != nil {
		in.t.Fatal(err)
	}
	if err := js.DeleteStream(in.t.Context(), natsstream.StreamName); err != nil {
		in.t.Fatal(err)
	}
	in.beginStream()
}

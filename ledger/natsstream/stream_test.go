package natsstream_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/ledger/natsstream"
)

// patience bounds what should come soon, on a slow machine.
const patience = 60 * time.Second

var quiet = slog.New(slog.DiscardHandler)

// plane is an embedded server with a stream.
type plane struct {
	dir  string
	srv  *natsstream.Server
	conn *natsstream.Conn
	pub  *natsstream.Publisher
}

// start runs a server on a directory; the stream is not made yet.
func start(t testing.TB, dir string) *plane {
	t.Helper()
	srv, err := natsstream.StartServer(natsstream.ServerOptions{StoreDir: dir, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := natsstream.Connect(natsstream.ConnectOptions{Name: "test", Server: srv, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{dir: dir, srv: srv, conn: conn, pub: natsstream.NewPublisher(conn, patience)}
	t.Cleanup(p.stop)
	return p
}

func (p *plane) stop() {
	p.conn.Close()
	p.srv.Shutdown()
}

// ensure makes the stream.
func (p *plane) ensure(t testing.TB) string {
	t.Helper()
	inc, err := natsstream.EnsureStream(t.Context(), p.conn, natsstream.StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return inc
}

// open opens the stream's incarnation where a store is.
func (p *plane) open(t testing.TB, h *ledgertest.Hub, s *boltstore.Store, renew bool) {
	t.Helper()
	root, err := s.Root(s.Size())
	if err != nil {
		t.Fatal(err)
	}
	p.openAt(t, h, s.Size(), root, renew)
}

func (p *plane) openAt(t testing.TB, h *ledgertest.Hub, size ledger.Seq, root ledger.Digest, renew bool) string {
	t.Helper()
	inc, err := natsstream.Bootstrap(t.Context(), p.conn, p.pub, natsstream.Opening{
		Size: size, Root: root, Renew: renew,
		Sign: func(d ledger.StreamBegunData) (ledger.Record, error) {
			return h.StreamBegun(d.Incarnation, d.BaseSize, d.BaseRoot).Record, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return inc
}

var fresh struct {
	sync.Mutex
	n int
}

// message gives a record a message id that none has had.
func message(in ledger.Incoming) natsstream.Message {
	fresh.Lock()
	defer fresh.Unlock()
	fresh.n++
	return natsstream.Message{Record: in.Record, Subject: in.Subject, MsgID: "m" + strconv.Itoa(fresh.n)}
}

func (p *plane) publish(t testing.TB, ins ...ledger.Incoming) {
	t.Helper()
	for _, in := range ins {
		if _, err := p.pub.Publish(t.Context(), message(in)); err != nil {
			t.Fatal(err)
		}
	}
}

// store opens a ledger file of the test's own.
func store(t testing.TB, name string) *boltstore.Store {
	t.Helper()
	return storeAt(t, filepath.Join(t.TempDir(), name))
}

func storeAt(t testing.TB, path string) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(path, boltstore.Options{Hub: ledgertest.Public("hub"), Install: "test", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// following is a follower that runs, and what it said.
type following struct {
	cancel context.CancelFunc
	done   chan error
	losses chan natsstream.Loss
	gaps   chan gap
}

type gap struct {
	Cluster  ledger.ClusterName
	Epoch, N uint64
}

func follow(t testing.TB, p *plane, s natsstream.Store, o natsstream.FollowerOptions) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &following{cancel: cancel, done: make(chan error, 1), losses: make(chan natsstream.Loss, 100), gaps: make(chan gap, 1000)}
	o.CheckEvery = 50 * time.Millisecond
	o.Logger = quiet
	o.OnLoss = func(l natsstream.Loss) { f.losses <- l }
	o.OnGap = func(c ledger.ClusterName, epoch, n uint64) { f.gaps <- gap{c, epoch, n} }
	go func() { f.done <- natsstream.NewFollower(p.conn, s, o).Run(ctx) }()
	t.Cleanup(func() { f.stop(t) })
	return f
}

func (f *following) stop(t testing.TB) {
	t.Helper()
	f.cancel()
	select {
	case err := <-f.done:
		f.done <- err
		if !errors.Is(err, context.Canceled) {
			t.Errorf("follower ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("the follower does not end")
	}
}

// loss waits for a loss of the kind, and passes over others.
func (f *following) loss(t testing.TB, k natsstream.LossKind) natsstream.Loss {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case l := <-f.losses:
			if l.Kind == k {
				return l
			}
		case <-deadline:
			t.Fatalf("the follower does not say: %s", k)
		}
	}
}

// gap waits until the follower asks for an event.
func (f *following) gap(t testing.TB, want gap) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case g := <-f.gaps:
			if g == want {
				return
			}
		case <-deadline:
			t.Fatalf("the follower does not ask for %+v", want)
		}
	}
}

func wait(t testing.TB, s *boltstore.Store, size ledger.Seq) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Wait(ctx, size); err != nil {
		t.Fatal(err)
	}
}

func rootOf(t testing.TB, s *boltstore.Store) ledger.Digest {
	t.Helper()
	d, err := s.Root(s.Size())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// begin makes the stream, opens it on an empty ledger and adds clusters.
func (p *plane) begin(t testing.TB, h *ledgertest.Hub, clusters ...ledger.ClusterName) {
	t.Helper()
	p.ensure(t)
	p.openAt(t, h, 0, ledger.DigestOf(nil), false)
	p.publish(t, h.TermBegun())
	for _, c := range clusters {
		p.publish(t, h.SiteAdded(c))
	}
}

package natsstream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/ledger/natsstream"
)

func puts(c *ledgertest.Collector, n int) []natsstream.Message {
	ms := make([]natsstream.Message, n)
	for i := range ms {
		ms[i] = message(c.Put(fmt.Sprint("m", i), "1"))
	}
	return ms
}

func last(t *testing.T, p *plane) uint64 {
	t.Helper()
	js, err := jetstream.New(p.conn.Conn)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), natsstream.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

func TestPublishBatch(t *testing.T) {
	p, east := start(t, t.TempDir()), ledgertest.NewCollector("east")
	p.ensure(t)
	for _, n := range []int{0, 1, 2, natsstream.MaxBatch} {
		before := last(t, p)
		ack, err := p.pub.PublishBatch(t.Context(), puts(east, n))
		if err != nil {
			t.Fatalf("batch of %d: %v", n, err)
		}
		if got := last(t, p); got != before+uint64(n) || n > 0 && ack.StreamSeq != got {
			t.Errorf("batch of %d: the stream ends at %d, was at %d, acknowledged %d", n, got, before, ack.StreamSeq)
		}
	}
	if _, err := p.pub.PublishBatch(t.Context(), puts(east, natsstream.MaxBatch+1)); !errors.Is(err, natsstream.ErrRefused) {
		t.Errorf("a batch that is too large: %v, want ErrRefused", err)
	}
}

// TestBatchIsCut: a batch of which the stream has a part already.
func TestBatchIsCut(t *testing.T) {
	for name, had := range map[string][]int{
		"all of it":      {0, 1, 2, 3, 4, 5, 6, 7},
		"the beginning":  {0, 1, 2},
		"the first":      {0},
		"the end":        {6, 7},
		"here and there": {1, 4, 5},
	} {
		t.Run(name, func(t *testing.T) {
			p, east := start(t, t.TempDir()), ledgertest.NewCollector("east")
			p.ensure(t)
			ms := puts(east, 8)
			for _, i := range had {
				if _, err := p.pub.Publish(t.Context(), ms[i]); err != nil {
					t.Fatal(err)
				}
			}
			ack, err := p.pub.PublishBatch(t.Context(), ms)
			if err != nil {
				t.Fatal(err)
			}
			if got := last(t, p); got != 8 || ack.Duplicates != len(had) {
				t.Errorf("%d messages in the stream and %d duplicates, want 8 and %d", got, ack.Duplicates, len(had))
			}
		})
	}
}

func TestPublishErrors(t *testing.T) {
	p, east := start(t, t.TempDir()), ledgertest.NewCollector("east")
	m := message(east.Begin())
	if _, err := p.pub.Publish(t.Context(), m); !errors.Is(err, natsstream.ErrUnavailable) {
		t.Errorf("without a stream: %v, want ErrUnavailable", err)
	}
	if _, err := p.pub.PublishBatch(t.Context(), puts(east, 3)); !errors.Is(err, natsstream.ErrUnavailable) {
		t.Errorf("a batch without a stream: %v, want ErrUnavailable", err)
	}
	p.ensure(t)
	large := m
	large.Record.Event = []byte(strings.Repeat("x", 2<<20))
	if _, err := p.pub.Publish(t.Context(), large); !errors.Is(err, natsstream.ErrRefused) {
		t.Errorf("too large: %v, want ErrRefused", err)
	}
	// Somebody hears the message and says nothing: whether it is stored is not known.
	if _, err := p.conn.Subscribe("silent", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	silent := m
	silent.Subject = "silent"
	if _, err := natsstream.NewPublisher(p.conn, 100*time.Millisecond).Publish(t.Context(), silent); !errors.Is(err, natsstream.ErrUnknown) {
		t.Errorf("no answer: %v, want ErrUnknown", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.pub.Publish(ctx, m); !errors.Is(err, natsstream.ErrUnknown) {
		t.Errorf("cancelled: %v, want ErrUnknown", err)
	}
	p.stop()
	if _, err := p.pub.Publish(t.Context(), m); !errors.Is(err, natsstream.ErrUnavailable) {
		t.Errorf("without a connection: %v, want ErrUnavailable", err)
	}
}

// TestLargestEvent: an event of the greatest size passes stream and ledger.
func TestLargestEvent(t *testing.T) {
	p, h, east, s := start(t, t.TempDir()), ledgertest.NewHub(), ledgertest.NewCollector("east"), store(t, "a.db")
	follow(t, p, s, natsstream.FollowerOptions{})
	p.begin(t, h, "east")
	p.publish(t, east.Begin())
	room := ledger.MaxEventBytes - len(east.Put("large", "").Record.Event)
	east.Rewind(1)
	large := east.Put("large", strings.Repeat("x", room))
	if len(large.Record.Event) != ledger.MaxEventBytes {
		t.Fatalf("the event has %d bytes", len(large.Record.Event))
	}
	p.publish(t, large)
	wait(t, s, 5)
}

func TestEnsureStream(t *testing.T) {
	p := start(t, t.TempDir())
	inc := p.ensure(t)
	if again := p.ensure(t); inc == "" || again != inc {
		t.Errorf("incarnations %q and %q of one stream", inc, again)
	}
	js, err := jetstream.New(p.conn.Conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := natsstream.EnsureStream(t.Context(), p.conn, natsstream.StreamOptions{MaxAge: time.Hour}); err != nil {
		t.Errorf("another limit: %v", err)
	}
	s, err := js.Stream(t.Context(), natsstream.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().Config.MaxAge; got != time.Hour {
		t.Errorf("max_age is %s, want 1h", got)
	}
	deleteStream(t, p)
	wrong := jetstream.StreamConfig{
		Name: natsstream.StreamName, Subjects: []string{"chancery.event.>"}, Storage: jetstream.MemoryStorage,
		Discard: jetstream.DiscardNew, MaxMsgsPerSubject: 1,
	}
	if _, err := js.CreateStream(t.Context(), wrong); err != nil {
		t.Fatal(err)
	}
	_, err = natsstream.EnsureStream(t.Context(), p.conn, natsstream.StreamOptions{})
	if !errors.Is(err, natsstream.ErrStreamSettings) {
		t.Fatalf("%v, want ErrStreamSettings", err)
	}
	for _, name := range []string{"subjects", "storage", "discard", "max_msgs_per_subject", "allow_direct", "allow_atomic", "chancery.dev/incarnation"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}

func TestControl(t *testing.T) {
	for _, c := range []natsstream.Control{
		{Trim: &natsstream.Trim{Epoch: 1, Instance: "a", N: 7}},
		{Resend: &natsstream.Resend{Epoch: 1, Instance: "a", N: 3}},
		{Claim: &natsstream.Claim{Epoch: 2}},
	} {
		b, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := natsstream.DecodeControl(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", b, d)
		}
	}
	for _, bad := range []string{"", "{}", "[]", `{"trim":{},"claim":{}}`, `{"claim":{"epoch":-1}}`, `{"claim":{"epoch":1}}` + strings.Repeat(" ", natsstream.MaxControlBytes)} {
		if _, err := natsstream.DecodeControl([]byte(bad)); !errors.Is(err, natsstream.ErrControl) {
			t.Errorf("%.40q: %v, want ErrControl", bad, err)
		}
	}
	if _, err := (natsstream.Control{}).Encode(); err == nil {
		t.Error("an empty control message is encoded")
	}
}

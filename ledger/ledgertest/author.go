package ledgertest

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"time"

	"github.com/chancery-dev/chancery/ledger"
)

// Key returns the key that belongs to a name, the same each time.
func Key(name string) ed25519.PrivateKey {
	seed := ledger.DigestOf([]byte("ledgertest key of " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Public returns the public half of Key.
func Public(name string) ed25519.PublicKey { return Key(name).Public().(ed25519.PublicKey) }

// epoch is when the first event of an author is made.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Hub makes the decisions of a decision-maker, in sequence. Its key is
// Key("hub").
type Hub struct {
	claimed  ledger.Digest // of the newest TermBegun
	Term     uint64
	Instance string
	next     uint64
	made     int
}

// NewHub returns a decision-maker that has claimed no term yet.
func NewHub() *Hub { return &Hub{Instance: "hub-a"} }

// StreamBegun opens an incarnation on a base.
func (h *Hub) StreamBegun(incarnation string, size ledger.Seq, root ledger.Digest) ledger.Incoming {
	return h.decide(ledger.StreamBegun, 0, ledger.StreamBegunData{Incarnation: incarnation, BaseSize: size, BaseRoot: root})
}

// TermBegun claims the next term.
func (h *Hub) TermBegun() ledger.Incoming {
	h.Term++
	h.next = 1
	m := h.decide(ledger.TermBegun, 0, ledger.TermBegunData{Term: h.Term, Instance: h.Instance, Previous: h.claimed})
	h.claimed = ledger.DigestOf(m.Record.Event)
	return m
}

// SiteAdded admits a cluster, whose collector has Key(cluster).
func (h *Hub) SiteAdded(cluster ledger.ClusterName) ledger.Incoming {
	return h.Decide(ledger.SiteAdded, ledger.SiteAddedData{Cluster: cluster, Key: Public(string(cluster)), Site: "dir:" + string(cluster)})
}

// Decide makes the next decision of the term.
func (h *Hub) Decide(t ledger.Type, body any) ledger.Incoming {
	n := h.next
	h.next++
	return h.decide(t, n, body)
}

func (h *Hub) decide(t ledger.Type, n uint64, body any) ledger.Incoming {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	data, err := json.Marshal(ledger.Decision{Term: h.Term, Body: b})
	if err != nil {
		panic(err)
	}
	h.made++
	return sign("hub", ledger.Event{
		ID:      ledger.Origin{Cluster: ledger.InstallScope, Epoch: h.Term, Instance: h.Instance, N: n},
		Source:  "/chancery/hub",
		Type:    t,
		Subject: ledger.DecisionSubject(ledger.InstallScope),
		Time:    epoch.Add(time.Duration(h.made) * time.Second),
		Data:    data,
	})
}

// Collector makes the events of a cluster, in sequence. Its key is
// Key(cluster).
type Collector struct {
	Cluster  ledger.ClusterName
	Instance string
	Epoch    uint64
	next     uint64
	made     int
}

// NewCollector returns a collector that has claimed no epoch yet.
func NewCollector(cluster ledger.ClusterName) *Collector {
	return &Collector{Cluster: cluster, Instance: string(cluster) + "-a"}
}

// Begin claims the next epoch.
func (c *Collector) Begin() ledger.Incoming {
	c.Epoch++
	c.next = 1
	return c.sign(ledger.Event{Type: ledger.SyncBegin, Subject: ledger.SyncSubject(c.Cluster), Data: json.RawMessage(`{}`)}, 0)
}

// Object returns the key of the Mapping with a name.
func (c *Collector) Object(name string) ledger.ObjectKey {
	return ledger.ObjectKey{Cluster: c.Cluster, Group: "getambassador.io", Kind: "Mapping", Namespace: "default", Name: name}
}

// Put records a Mapping with a label of the given value.
func (c *Collector) Put(name, value string) ledger.Incoming {
	data, err := json.Marshal(map[string]any{
		"apiVersion": "getambassador.io/v3alpha1",
		"kind":       "Mapping",
		"metadata":   map[string]any{"name": name, "namespace": "default", "labels": map[string]string{"value": value}},
		"spec":       map[string]any{"hostname": "*", "prefix": "/" + name + "/", "service": name},
	})
	if err != nil {
		panic(err)
	}
	return c.object(ledger.ObjectPut, name, data)
}

// Delete records that a Mapping is gone.
func (c *Collector) Delete(name string) ledger.Incoming {
	return c.object(ledger.ObjectDelete, name, nil)
}

// Rewind makes the collector number its next event n, as one does that
// publishes again or has lost events.
func (c *Collector) Rewind(n uint64) { c.next = n }

func (c *Collector) object(t ledger.Type, name string, data []byte) ledger.Incoming {
	k := c.Object(name)
	e := ledger.Event{Type: t, Subject: k.Subject(), Object: k, UID: "uid-" + name, Actor: ledger.Actor{Name: "kubectl", Source: "managed-fields"}, Data: data}
	if data != nil {
		e.ObjectDigest = ledger.DigestOf(data)
	}
	n := c.next
	c.next++
	return c.sign(e, n)
}

func (c *Collector) sign(e ledger.Event, n uint64) ledger.Incoming {
	c.made++
	e.ID = ledger.Origin{Cluster: c.Cluster, Epoch: c.Epoch, Instance: c.Instance, N: n}
	e.Source = "/chancery/collector/" + string(c.Cluster)
	e.Time = epoch.Add(time.Duration(c.made) * time.Second)
	return sign(string(c.Cluster), e)
}

func sign(who string, e ledger.Event) ledger.Incoming {
	b, err := e.Encode()
	if err != nil {
		panic(fmt.Sprintf("encode %s: %v", e.ID, err))
	}
	return ledger.Incoming{Record: ledger.Sign(b, Key(who)), Subject: e.Subject}
}

// Stream gives messages their places in an incarnation of the stream.
type Stream struct {
	Incarnation string
	Last        uint64 // place of the last message, 0 before the first
}

// Next returns the messages with the next places.
func (s *Stream) Next(ms ...ledger.Incoming) []ledger.Incoming {
	out := make([]ledger.Incoming, len(ms))
	for i, m := range ms {
		s.Last++
		m.Incarnation, m.StreamSeq = s.Incarnation, s.Last
		out[i] = m
	}
	return out
}

// Opening returns the messages that begin an install on an empty ledger: the
// incarnation, a term, the clusters.
func Opening(h *Hub, incarnation string, clusters ...ledger.ClusterName) []ledger.Incoming {
	ms := []ledger.Incoming{h.StreamBegun(incarnation, 0, ledger.DigestOf(nil)), h.TermBegun()}
	for _, c := range clusters {
		ms = append(ms, h.SiteAdded(c))
	}
	return ms
}

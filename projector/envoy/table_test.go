package envoy_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

func drawHost(t *rapid.T, i int) ir.VirtualHost {
	v := ir.VirtualHost{Name: fmt.Sprintf("host-%05d", i), Domains: []string{fmt.Sprintf("h%d.example", i)}}
	for j := range rapid.IntRange(0, 4).Draw(t, "routes") {
		r := ir.Route{
			Match:  ir.Match{Path: "/" + rapid.StringMatching(`[a-z/]{0,12}`).Draw(t, "path")},
			Action: ir.Action{Forward: []ir.Weighted{{Upstream: fmt.Sprintf("u%d", j)}}},
		}
		if rapid.Bool().Draw(t, "headers") {
			r.Match.Headers = []ir.HeaderMatch{{Name: "x-a", Value: ir.StringMatch{Exact: rapid.String().Draw(t, "value")}}}
			r.AuthContext = map[string]string{"b": "2", "a": "1", "c": "3"}
		}
		v.Routes = append(v.Routes, r)
	}
	return v
}

// TestRouteTableEqualsWholeMarshal: assembly from parts gives the bytes that a
// marshal of the whole message gives.
func TestRouteTableEqualsWholeMarshal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := ir.RouteTable{
			Name:                   rapid.StringMatching(`[a-z]{0,200}`).Draw(t, "name"),
			Sentinel:               rapid.Bool().Draw(t, "sentinel"),
			MaxDirectResponseBytes: rapid.SampledFrom([]uint32{0, 1, 70000}).Draw(t, "max"),
		}
		for i := range rapid.IntRange(0, 20).Draw(t, "hosts") {
			table.Hosts = append(table.Hosts, drawHost(t, i))
		}
		r, err := envoy.Routes(table)
		if err != nil {
			t.Fatal(err)
		}
		m := &routev3.RouteConfiguration{}
		if err := proto.Unmarshal(r.Bytes, m); err != nil {
			t.Fatal(err)
		}
		whole, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(whole, r.Bytes) {
			t.Fatalf("assembled %x\nwhole     %x", r.Bytes, whole)
		}
		if m.Name != table.Name || m.ValidateClusters == nil || m.ValidateClusters.Value || len(m.ProtoReflect().GetUnknown()) > 0 {
			t.Fatalf("not the table that was asked for: %v", m)
		}
		want := len(table.Hosts)
		if table.Sentinel {
			want++
		}
		if len(m.VirtualHosts) != want {
			t.Fatalf("%d virtual hosts, want %d", len(m.VirtualHosts), want)
		}
		var limit *wrapperspb.UInt32Value
		if table.MaxDirectResponseBytes > 0 {
			limit = wrapperspb.UInt32(table.MaxDirectResponseBytes)
		}
		if !proto.Equal(m.MaxDirectResponseBodySizeBytes, limit) {
			t.Fatalf("limit %v, want %v", m.MaxDirectResponseBodySizeBytes, limit)
		}
		slices.Reverse(table.Hosts)
		if again, err := envoy.Routes(table); err != nil || !bytes.Equal(again.Bytes, r.Bytes) {
			t.Fatalf("the order of hosts matters (%v)", err)
		}
	})
}

// TestSentinelHash: the body is the hash of the table without the sentinel,
// and differs where the table does.
func TestSentinelHash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := ir.RouteTable{Name: "t", Hosts: []ir.VirtualHost{drawHost(t, 1), drawHost(t, 2)}, Sentinel: true}
		r, err := envoy.Routes(table)
		if err != nil {
			t.Fatal(err)
		}
		body, err := envoy.SentinelBody(r)
		if err != nil {
			t.Fatal(err)
		}
		table.Sentinel = false
		plain, err := envoy.Routes(table)
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.TrimPrefix(plain.Version.String(), "sha256:"); body != want {
			t.Fatalf("body %s, want %s", body, want)
		}
		if _, err := envoy.SentinelBody(plain); err == nil {
			t.Fatal("a table without sentinel has a body")
		}
		table.Sentinel = true
		table.Hosts[0].Domains = []string{"other.example"}
		changed, err := envoy.Routes(table)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := envoy.SentinelBody(changed); err != nil || again == body {
			t.Fatalf("another table has the same body (%v)", err)
		}
	})
	if a, b := envoy.SentinelHost("a"), envoy.SentinelHost("b"); a == b || !strings.HasSuffix(a, ".sentinel.chancery.invalid") || strings.Index(a, ".") != 16 {
		t.Errorf("sentinel hosts %s and %s", a, b)
	}
	if _, err := envoy.SentinelBody(projector.NewResource("t", []byte{0xff})); err == nil {
		t.Error("damaged bytes have a body")
	}
	if _, err := envoy.VirtualHost(ir.VirtualHost{Name: envoy.SentinelName, Domains: []string{"a"}}); err == nil {
		t.Error("a virtual host may call itself the sentinel")
	}
}

// TestDocumentedBytes pins what docs/format/snapshot.md draws.
func TestDocumentedBytes(t *testing.T) {
	host, err := envoy.VirtualHost(ir.VirtualHost{Name: "h", Domains: []string{"d"}})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("% X", envoy.RouteTable("t", [][]byte{host}, false, 70000).Bytes)
	if want := "0A 01 74 12 06 0A 01 68 12 01 64 3A 00 5A 04 08 F0 A2 04"; got != want {
		t.Errorf("a route table is %s, want %s", got, want)
	}
	empty := projector.EmptySnapshot()
	if got := empty.Fingerprint().String(); len(empty.Manifest()) != 1 || got != "sha256:4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a" {
		t.Errorf("the empty snapshot is %s, manifest %x", got, empty.Manifest())
	}
	r := projector.NewResource("t", []byte("bytes"))
	s := empty.With([]projector.Update{{Type: projector.Routes, Name: "t", Resource: &r}})
	for c := range s.Chunks() {
		if got, want := fmt.Sprintf("% X", c.Encode()), "01 74 05 62 79 74 65 73"; got != want {
			t.Errorf("a chunk is %s, want %s", got, want)
		}
		entry := sha256.Sum256([]byte("t"))
		digest := sha256.Sum256(append([]byte{1, 't'}, r.Version[:]...))
		want := append([]byte{1, byte(projector.Routes), entry[0]}, digest[:]...)
		if !bytes.Equal(s.Manifest(), want) {
			t.Errorf("the manifest is %x, want %x", s.Manifest(), want)
		}
	}
}

package ledger_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenEvents are events of encoding v1, as they are to be read for ever. Do not
// change one: add another.
func goldenEvents() map[string]ledger.Event {
	at := time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.UTC)
	object := ledger.ObjectKey{Cluster: "east", Group: "getambassador.io", Kind: "Mapping", Namespace: "default", Name: "web"}
	data := json.RawMessage(`{"apiVersion":"getambassador.io/v3alpha1","kind":"Mapping","metadata":{"name":"web","namespace":"default"},"spec":{"hostname":"*","prefix":"/<web>&/","service":"web"}}`)
	return map[string]ledger.Event{
		"put": {
			ID: ledger.Origin{Cluster: "east", Epoch: 3, Instance: "east-7f", N: 12}, Source: "/chancery/collector/east",
			Type: ledger.ObjectPut, Subject: object.Subject(), Time: at, Object: object,
			UID: "0c9f4b7e-0000-4000-8000-000000000001", Generation: 4, ResourceVersion: "1234",
			ObjectDigest: ledger.DigestOf(data), PreviousDigest: ledger.DigestOf([]byte("before")),
			Actor: ledger.Actor{Name: "argocd-controller", Source: "managed-fields"},
			Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Data: data,
		},
		"delete": {
			ID: ledger.Origin{Cluster: "east", Epoch: 3, Instance: "east-7f", N: 13}, Source: "/chancery/collector/east",
			Type: ledger.ObjectDelete, Subject: object.Subject(), Time: at, Object: object,
		},
		"core-cluster-scoped": {
			ID: ledger.Origin{Cluster: "east", Epoch: 3, Instance: "east-7f", N: 14}, Source: "/chancery/collector/east",
			Type: ledger.ObjectTooLarge, Subject: ledger.ObjectKey{Cluster: "east", Kind: "Namespace", Name: "größe.x"}.Subject(), Time: at,
			Object: ledger.ObjectKey{Cluster: "east", Kind: "Namespace", Name: "größe.x"}, Data: json.RawMessage(`{"bytes":1048576}`),
		},
		"sync-begin": {
			ID: ledger.Origin{Cluster: "east", Epoch: 4, Instance: "east-80", N: 0}, Source: "/chancery/collector/east",
			Type: ledger.SyncBegin, Subject: ledger.SyncSubject("east"), Time: at, Data: json.RawMessage(`{}`),
		},
		"stream-begin": {
			ID: ledger.Origin{Cluster: ledger.InstallScope, Epoch: 2, Instance: "hub-1", N: 0}, Source: "/chancery/hub",
			Type: ledger.StreamBegun, Subject: ledger.DecisionSubject(ledger.InstallScope), Time: at,
			Data: json.RawMessage(`{"term":2,"basis":9,"body":{"incarnation":"5f","basesize":9,"baseroot":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}`),
		},
	}
}

func TestGoldenEvents(t *testing.T) {
	for name, want := range goldenEvents() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", "events", "v1", name+".json")
			encoded, err := want.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(path, encoded, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(golden, encoded) {
				t.Errorf("encoded as\n%s\nthe golden event is\n%s", encoded, golden)
			}
			got, err := ledger.DecodeEvent(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("read (-want +got):\n%s", d)
			}
		})
	}
}

// TestGoldenRoot: the bytes and hashes of a whole story do not change.
func TestGoldenRoot(t *testing.T) {
	m := ledger.NewMemory(ledgertest.Public("hub"))
	ledgertest.MustAppend(t, m, (&ledgertest.Stream{Incarnation: "one"}).Next(ledgertest.Story(300)...)...)
	root, err := m.Root(m.Size())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "story.root")
	if *update {
		if err := os.WriteFile(path, []byte(root.String()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := root.String() + "\n"; got != string(want) {
		t.Errorf("root %swant %s", got, want)
	}
}

func TestEncodeTooLarge(t *testing.T) {
	e := goldenEvents()["put"]
	e.Data = json.RawMessage(`"` + strings.Repeat("x", ledger.MaxEventBytes) + `"`)
	if _, err := e.Encode(); !errors.Is(err, ledger.ErrTooLarge) {
		t.Errorf("%v, want ErrTooLarge", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := os.ReadFile(filepath.Join("testdata", "events", "v1", "put.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string][2]string{
		"another version":   {`"specversion":"1.0"`, `"specversion":"0.3"`},
		"no number":         {`east/3/east-7f/12`, `east/3/east-7f`},
		"an epoch below 0":  {`east/3/east-7f/12`, `east/-3/east-7f/12`},
		"a bad time":        {`2026-03-04T`, `2026-13-04T`},
		"a short digest":    {`"objectdigest":"sha256:`, `"objectdigest":"sha256:00`},
		"a nameless object": {`east:Mapping.getambassador.io/default/web`, `east:Mapping.getambassador.io/default/`},
		"cut short":         {`}`, ``},
	} {
		bad := strings.Replace(string(good), c[0], c[1], 1)
		if bad == string(good) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := ledger.DecodeEvent([]byte(bad)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for _, e := range goldenEvents() {
		b, err := e.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ledger.DecodeEvent(b)
		if err != nil || len(b) > ledger.MaxEventBytes/8 {
			return
		}
		// What was read can be written and read again, as the same.
		again, err := e.Encode()
		if err != nil {
			t.Fatalf("%+v is read and cannot be written: %v", e, err)
		}
		same, err := ledger.DecodeEvent(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if third, err := same.Encode(); err != nil || !bytes.Equal(third, again) {
			t.Fatalf("written as\n%s\nthen as\n%s, %v", again, third, err)
		}
	})
}

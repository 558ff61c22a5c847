package compile_test

import (
	"slices"
	"testing"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
)

// TestRoutesAreCounted counts what is served: the guard on snapshots that
// shrink rests on it.
func TestRoutesAreCounted(t *testing.T) {
	object := func(kind, name, spec string) (ledger.ObjectKey, []byte) {
		return ledger.ObjectKey{Cluster: "east", Group: "getambassador.io", Kind: kind, Namespace: "default", Name: name},
			[]byte(`{"apiVersion":"getambassador.io/v3alpha1","kind":"` + kind + `","metadata":{"name":"` + name + `","namespace":"default"},"spec":` + spec + `}`)
	}
	var keys []ledger.ObjectKey
	var raws [][]byte
	add := func(kind, name, spec string) {
		k, b := object(kind, name, spec)
		keys, raws = append(keys, k), append(raws, b)
	}
	add("Listener", "http", `{"port":8080,"protocol":"HTTP","securityModel":"XFP","hostBinding":{"namespace":{"from":"ALL"}}}`)
	add("Host", "web", `{"hostname":"*","requestPolicy":{"insecure":{"action":"Route"}}}`)
	add("Mapping", "a", `{"hostname":"*","prefix":"/a/","service":"a"}`)
	add("Mapping", "b", `{"hostname":"*","prefix":"/b/","service":"b"}`)
	objects := compile.Objects(keys, raws)
	result, c := compile.Full(projector.DefaultSettings(), slices.Values(objects), projector.Overlay{})
	if result.Routes != 2 {
		t.Errorf("%d routes counted, want 2", result.Routes)
	}
	last := objects[len(objects)-1]
	c.Apply([]projector.Change{{Key: last.Key, Before: last}})
	if got := c.Compile().Routes; got != 1 {
		t.Errorf("%d routes counted after one Mapping went, want 1", got)
	}
}

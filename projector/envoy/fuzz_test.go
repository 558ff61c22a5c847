package envoy_test

import (
	"testing"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
)

// FuzzRead: bytes that are not ours are an error or something to print, never
// a panic.
func FuzzRead(f *testing.F) {
	updates, err := write(full())
	if err != nil {
		f.Fatal(err)
	}
	for _, u := range updates {
		f.Add(byte(u.Type), u.Resource.Bytes)
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		at := projector.ResourceTypes[int(kind)%len(projector.ResourceTypes)]
		r := projector.NewResource("fuzzed", b)
		update := []projector.Update{{Type: at, Name: r.Name, Resource: &r}}
		refs, err := envoy.References(r, at)
		s := projector.EmptySnapshot().With(update)
		problems := envoy.Check(s)
		if err != nil && len(problems) == 0 {
			t.Errorf("damaged, but no problem: %v", err)
		}
		if err == nil && len(problems) < len(refs) {
			t.Errorf("%d references lead nowhere, %d problems", len(refs), len(problems))
		}
		_, _ = envoy.ToJSON(r, at)
		_, _ = envoy.SentinelBody(r)
		_, _ = envoy.Tasteable(update)
		_, _ = envoy.BootstrapStatic(s, nil, nil, envoy.StaticOptions{})
	})
}

package envoy_test

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

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
		readAnything(t, projector.ResourceTypes[int(kind)%len(projector.ResourceTypes)], b)
	})
}

// TestDamage is FuzzRead on ours with a few bytes changed, which gets further
// into them in the time of a test.
func TestDamage(t *testing.T) {
	updates, err := write(full())
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		u := rapid.SampledFrom(updates).Draw(t, "resource")
		b := bytes.Clone(u.Resource.Bytes)
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		}
		if rapid.IntRange(0, 9).Draw(t, "cut") == 0 {
			b = b[:rapid.IntRange(0, len(b)).Draw(t, "length")]
		}
		readAnything(t, u.Type, b)
	})
}

func readAnything(t interface{ Errorf(string, ...any) }, at projector.ResourceType, b []byte) {
	r := projector.NewResource("fuzzed", b)
	update := []projector.Update{{Type: at, Name: r.Name, Resource: &r}}
	refs, err := envoy.References(r, at)
	s := projector.EmptySnapshot().With(update)
	problems := envoy.Check(s)
	if err != nil && len(problems) == 0 {
		t.Errorf("damaged, but no problem: %v", err)
	}
	itself := envoy.Ref{Type: at, Name: r.Name}
	if err == nil && !slices.Contains(refs, itself) && len(problems) < len(refs) {
		t.Errorf("%d references lead nowhere, %d problems", len(refs), len(problems))
	}
	_, _ = envoy.ToJSON(r, at)
	_, _ = envoy.SentinelBody(r)
	_, _ = envoy.Tasteable(update)
	_, _ = envoy.BootstrapStatic(s, nil, nil, envoy.StaticOptions{})
}

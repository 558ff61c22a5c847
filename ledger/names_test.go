package ledger_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/ledger"
)

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"east": true, "a": true, "us-east-1": true, strings.Repeat("x", 63): true,
		"": false, "East": false, "-a": false, "a-": false, "a.b": false, "a_b": false, "*": false, ">": false, "é": false, strings.Repeat("x", 64): false,
	} {
		if err := ledger.ClusterName(name).Validate(); (err == nil) != ok {
			t.Errorf("cluster %q: %v", name, err)
		}
		if err := ledger.FleetName(name).Validate(); (err == nil) != ok {
			t.Errorf("fleet %q: %v", name, err)
		}
	}
}

func TestDigest(t *testing.T) {
	d := ledger.DigestOf([]byte("x"))
	for _, want := range []ledger.Digest{d, {}} {
		if got, err := ledger.ParseDigest(want.String()); err != nil || got != want {
			t.Errorf("%q is read as %s, %v", want, got, err)
		}
	}
	for _, bad := range []string{"x", "sha256:", "sha256:00", "md5:" + d.String()[7:], "sha256:" + strings.Repeat("g", 64)} {
		if _, err := ledger.ParseDigest(bad); err == nil {
			t.Errorf("%q is a digest", bad)
		}
	}
}

// TestSubjects: a subject has its number of tokens and no wildcard, whatever the
// names, and two objects have two subjects.
func TestSubjects(t *testing.T) {
	key := rapid.Custom(func(t *rapid.T) ledger.ObjectKey {
		name := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "_", ".", "*", ">", "a.b", "a b", "%2E", "é"}))
		return ledger.ObjectKey{
			Cluster: "east", Group: name.Draw(t, "group"), Kind: "K" + name.Draw(t, "kind"),
			Namespace: name.Draw(t, "namespace"), Name: "n" + name.Draw(t, "name"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := key.Draw(t, "a"), key.Draw(t, "b")
		tokens := strings.Split(a.Subject(), ".")
		if len(tokens) != 7 || strings.ContainsAny(a.Subject(), "*> \t\r\n") {
			t.Fatalf("subject %q", a.Subject())
		}
		for _, token := range tokens {
			if token == "" {
				t.Fatalf("subject %q has an empty token", a.Subject())
			}
		}
		if (a == b) != (a.Subject() == b.Subject()) {
			t.Fatalf("%+v and %+v have subjects %s and %s", a, b, a.Subject(), b.Subject())
		}
	})
}

func FuzzParseObjectKey(f *testing.F) {
	for _, s := range []string{"east:Mapping.getambassador.io/default/web", "east:Namespace/_/default", "east:K.a.b/_/x/y", ":K/_/x", "east:/_/x", "east:.g/_/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ledger.ParseObjectKey(s)
		if err != nil {
			return
		}
		again, err := ledger.ParseObjectKey(k.String())
		if err != nil || again != k {
			t.Fatalf("%q is %+v, whose name %q is %+v, %v", s, k, k.String(), again, err)
		}
	})
}

package getambassador_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/chancery-dev/chancery/api/getambassador"
)

func TestServedBy(t *testing.T) {
	for _, test := range []struct {
		ids  []string
		id   string
		want bool
	}{
		{nil, "default", true},
		{nil, "", true},
		{[]string{}, "blue", false},
		{[]string{"default"}, "", true},
		{[]string{"blue", "green"}, "green", true},
		{[]string{"blue", "green"}, "red", false},
		{[]string{"blue"}, "", false},
		{[]string{"_automatic_"}, "red", true},
		{[]string{"_automatic_", "blue"}, "red", false},
		{[]string{"_automatic_", "blue"}, "blue", true},
		{[]string{""}, "", false},
		{[]string{"Blue"}, "blue", false},
	} {
		if got := getambassador.ServedBy(test.ids, test.id); got != test.want {
			t.Errorf("ServedBy(%q, %q) = %v, want %v", test.ids, test.id, got, test.want)
		}
	}
}

func TestAnnotationIsBounded(t *testing.T) {
	parent := getambassador.Parent{Kind: "Service", Namespace: "shop", Name: "web"}
	found, problems := getambassador.FromAnnotations(parent, strings.Repeat("---\na: b\n", 40_000))
	const want = "annotation of Service shop/web: it has 360000 bytes, more than the 262144 that Kubernetes allows"
	if len(found) > 0 || len(problems) != 1 || problems[0].String() != want {
		t.Errorf("found %d, problems %v", len(found), problems)
	}
}

func TestCanonicalVersion(t *testing.T) {
	for in, want := range map[string]string{
		"getambassador.io/v1":         "getambassador.io/v1",
		"getambassador.io/v2":         "getambassador.io/v2",
		"getambassador.io/v3alpha1":   "getambassador.io/v3alpha1",
		"ambassador/v1":               "getambassador.io/v1",
		"ambassador/v2":               "getambassador.io/v2",
		"x.getambassador.io/v3alpha1": "getambassador.io/v3alpha1",
		"x.getambassador.io/v2":       "",
		"ambassador/v0":               "",
		"getambassador.io":            "",
		"getambassador.io/v2/x":       "",
		"v1":                          "",
		"":                            "",
	} {
		got, err := getambassador.CanonicalVersion(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("CanonicalVersion(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestSplitSecretName(t *testing.T) {
	for _, test := range []struct {
		name              string
		namespacing       bool
		namespace, secret string
	}{
		{"cert", true, "home", "cert"},
		{"cert.certs", true, "certs", "cert"},
		{"a.b.certs", true, "certs", "a.b"},
		{"a.b.certs", false, "home", "a.b.certs"},
		{"cert.", true, "home", "cert."},
		{".certs", true, "home", ".certs"},
	} {
		naming := getambassador.SecretNaming{Namespacing: test.namespacing}
		if namespace, secret := naming.Split(test.name, "home"); namespace != test.namespace || secret != test.secret {
			t.Errorf("%q: got %q, %q; want %q, %q", test.name, namespace, secret, test.namespace, test.secret)
		}
	}
}

func TestSecretRefs(t *testing.T) {
	type ref = getambassador.SecretRef
	plain := getambassador.SecretNaming{}
	for name, test := range map[string]struct {
		object string
		naming getambassador.SecretNaming
		want   []ref
	}{
		"host": {
			object: `{kind: Host, spec: {
				tlsSecret: {name: a.dotted}, tls: {ca_secret: ca.certs, crl_secret: crl},
				acmeProvider: {privateKeySecret: {name: key.dotted}}}}`,
			naming: getambassador.DefaultSecretNaming,
			want: []ref{
				{"certs", "ca", "spec.tls.ca_secret"},
				{"shop", "a.dotted", "spec.tlsSecret"},
				{"shop", "crl", "spec.tls.crl_secret"},
				{"shop", "key.dotted", "spec.acmeProvider.privateKeySecret"},
			},
		},
		"host of another namespace": {
			object: `{kind: Host, spec: {tlsSecret: {name: a, namespace: certs}}}`,
			naming: plain,
			want:   []ref{{"certs", "a", "spec.tlsSecret"}},
		},
		"host with nothing": {
			object: `{kind: Host, spec: {tlsSecret: {}, tls: {}, acmeProvider: {authority: none}}}`,
			naming: getambassador.DefaultSecretNaming,
		},
		"context": {
			object: `{kind: TLSContext, spec: {secret: a.certs, ca_secret: b, crl_secret: c.certs}}`,
			naming: getambassador.DefaultSecretNaming,
			want: []ref{
				{"certs", "a", "spec.secret"}, {"certs", "c", "spec.crl_secret"}, {"shop", "b", "spec.ca_secret"},
			},
		},
		"context says no": {
			object: `{kind: TLSContext, spec: {secret: a.certs, secret_namespacing: false}}`,
			naming: getambassador.DefaultSecretNaming,
			want:   []ref{{"shop", "a.certs", "spec.secret"}},
		},
		"context says yes": {
			object: `{kind: TLSContext, spec: {secret: a.certs, secret_namespacing: true}}`,
			naming: plain,
			want:   []ref{{"certs", "a", "spec.secret"}},
		},
		"module says no": {
			object: `{kind: TLSContext, spec: {secret: a.certs}}`,
			naming: plain,
			want:   []ref{{"shop", "a.certs", "spec.secret"}},
		},
		"legacy module": {
			object: `{kind: Module, metadata: {name: tls, namespace: shop}, spec: {config: {
				server: {enabled: true}, client: {secret: c.certs, secret_namespacing: false, ca_secret: 3},
				upstream: {secret: u.certs}, noise: 3}}}`,
			naming: getambassador.DefaultSecretNaming,
			want: []ref{
				{"certs", "u", "spec.config.upstream.secret"},
				{"shop", "ambassador-certs", "spec.config.server"},
				{"shop", "c.certs", "spec.config.client.secret"},
			},
		},
		"legacy module with its own files, or off": {
			object: `{kind: Module, metadata: {name: tls, namespace: shop}, spec: {config: {server: {cert_chain_file: x}}}}`,
			naming: getambassador.DefaultSecretNaming,
		},
		"other module": {
			object: `{kind: Module, metadata: {name: ambassador, namespace: shop}, spec: {config: {server: {secret: a}}}}`,
			naming: getambassador.DefaultSecretNaming,
		},
		"mapping": {
			object: `{kind: Mapping, spec: {prefix: /, service: web, tls: context}}`,
			naming: getambassador.DefaultSecretNaming,
		},
	} {
		got := test.naming.Refs(decodeYAML(t, test.object))
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", name, diff)
		}
	}
	context := decodeYAML(t, `{kind: TLSContext, spec: {secret: a.certs}}`)
	if got := getambassador.SecretRefs(context); len(got) != 1 || got[0].Namespace != "certs" {
		t.Errorf("by default: %v", got)
	}
}

func TestModuleSecretNaming(t *testing.T) {
	for config, want := range map[string]bool{
		`{}`:                              true,
		`{defaults: {}}`:                  true,
		`{defaults: 3}`:                   true,
		`{tls_secret_namespacing: false}`: true,
		`{defaults: {tls_secret_namespacing: false}}`: false,
		`{defaults: {tls_secret_namespacing: true}}`:  true,
		`{defaults: {tls_secret_namespacing: "no"}}`:  true,
	} {
		module := decodeYAML(t, `{kind: Module, spec: {config: `+config+`}}`).(*getambassador.Module)
		if got := module.SecretNaming().Namespacing; got != want {
			t.Errorf("%s: got %v", config, got)
		}
	}
}

// decodeYAML decodes a valid v3alpha1 object; metadata defaults to shop/it.
func decodeYAML(t *testing.T, text string) getambassador.Object {
	t.Helper()
	var value map[string]any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	value["apiVersion"] = getambassador.APIVersion
	if value["metadata"] == nil {
		value["metadata"] = map[string]any{"name": "it", "namespace": "shop"}
	}
	obj, problems, err := getambassador.DecodeValue(value)
	if err != nil || len(problems) > 0 {
		t.Fatalf("%s: %v %v", text, problems, err)
	}
	return obj
}

package corpus_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/federation/live"
	"github.com/chancery-dev/chancery/internal/corpus"
	"github.com/chancery-dev/chancery/internal/testbed"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

// site is the objects of a case as a collector and the live plane see them.
type site struct {
	objects []*projector.Object
	live    []live.Object
	secrets map[string]map[string][]byte // "namespace/name"
}

func readSite(file string) (site, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return site{}, err
	}
	s := site{secrets: map[string]map[string][]byte{}}
	n := collector.Normaliser{Cluster: "corpus", DigestKey: bytes.Repeat([]byte{1}, 32)}
	var keys []ledger.ObjectKey
	var raws [][]byte
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return site{}, err
		}
		asJSON, err := sigsyaml.YAMLToJSON(document)
		if err != nil {
			return site{}, err
		}
		obj := map[string]any{}
		d := json.NewDecoder(bytes.NewReader(asJSON))
		d.UseNumber()
		if err := d.Decode(&obj); err != nil || obj["kind"] == nil {
			continue
		}
		meta, _ := obj["metadata"].(map[string]any)
		if meta == nil {
			continue
		}
		if meta["namespace"] == nil && obj["kind"] != "IngressClass" && obj["kind"] != "Namespace" {
			meta["namespace"] = "default"
		}
		namespace, _ := meta["namespace"].(string)
		name, _ := meta["name"].(string)
		kind, _ := obj["kind"].(string)
		withNamespace, err := json.Marshal(obj)
		if err != nil {
			return site{}, err
		}
		switch kind {
		case "Service", "Endpoints", "EndpointSlice":
			s.live = append(s.live, live.NewObject(kind, namespace, name, withNamespace))
		case "Secret":
			s.secrets[namespace+"/"+name] = secretData(obj)
		}
		o, err := n.Normalise(obj, "resources.yaml", "")
		if err != nil {
			return site{}, err
		}
		if o != nil {
			keys, raws = append(keys, o.Key), append(raws, o.Data)
		}
	}
	s.objects = compile.Objects(keys, raws)
	return s, nil
}

func secretData(obj map[string]any) map[string][]byte {
	out := map[string][]byte{}
	data, _ := obj["data"].(map[string]any)
	for k, v := range data {
		text, _ := v.(string)
		if b, err := base64.StdEncoding.DecodeString(text); err == nil {
			out[k] = b
		}
	}
	plain, _ := obj["stringData"].(map[string]any)
	for k, v := range plain {
		text, _ := v.(string)
		out[k] = []byte(text)
	}
	return out
}

func firstOf(m map[string][]byte, keys ...string) []byte {
	for _, k := range keys {
		if b := m[k]; b != nil {
			return b
		}
	}
	return nil
}

// compiled is a case's configuration with the live plane's answers.
type compiled struct {
	snapshot  *projector.Snapshot
	endpoints map[string]ir.Endpoints
	secrets   map[string]ir.Secret
	uses      map[string]ir.SecretUse
}

// compileCase compiles a case offline.
func compileCase(c *corpus.Case) (compiled, error) {
	s, err := readSite(c.ResourcesFile())
	if err != nil {
		return compiled{}, err
	}
	settings := projector.DefaultSettings()
	settings.AllowLua = true
	result, compiler := compile.Full(settings, slices.Values(s.objects), projector.Overlay{})
	if os.Getenv("CHANCERY_CORPUS_REPORTS") != "" {
		for r := range compiler.Reports() {
			for _, f := range r.Findings {
				fmt.Printf("%s: %s %s: %s %s %s\n", c.Name, r.State, r.Object, f.Code, f.Path, f.Message)
			}
		}
	}
	if problems := envoy.Check(result.Snapshot); len(problems) > 0 {
		return compiled{}, fmt.Errorf("reference check: %v", problems)
	}
	needs, err := live.NeedsOf(result.Snapshot)
	if err != nil {
		return compiled{}, err
	}
	plane := live.NewPlane()
	plane.SetNeeds(needs)
	plane.SetObjects("corpus", s.live, false)
	answers := plane.Answers(time.Unix(1_700_000_000, 0))
	out := compiled{snapshot: result.Snapshot, endpoints: map[string]ir.Endpoints{}, secrets: map[string]ir.Secret{}, uses: map[string]ir.SecretUse{}}
	for name, e := range answers.Endpoints {
		out.endpoints[name] = e.Endpoints
	}
	for _, ref := range needs.Secrets {
		out.secrets[ref.Name], out.uses[ref.Name] = s.secret(ref), ref.Use
	}
	return out, nil
}

// secret answers a need without the live plane's guards: the recorded cases
// have certificates that it would keep back.
func (s site) secret(ref ir.SecretRef) ir.Secret {
	data := s.secrets[ref.Namespace+"/"+ref.Secret]
	secret := ir.Secret{Name: ref.Name}
	if ref.Use == ir.UseCertificate {
		secret.Chain, secret.Key = firstOf(data, "tls.crt", "cert-chain.pem"), firstOf(data, "tls.key", "user.key", "key.pem")
		return secret
	}
	secret.CA = firstOf(data, "tls.crt", "user.key", "root-cert.pem", "ca.crt")
	if ref.CRL != "" {
		ns := ref.CRLNamespace
		if ns == "" {
			ns = ref.Namespace
		}
		secret.CRL = s.secrets[ns+"/"+ref.CRL]["crl.pem"]
	}
	return secret
}

// compileStatic compiles a case offline into a static bootstrap.
func compileStatic(_ context.Context, c *corpus.Case) ([]byte, error) {
	out, err := compileCase(c)
	if err != nil {
		return nil, err
	}
	return envoy.BootstrapStatic(out.snapshot, out.endpoints, out.secrets, envoy.StaticOptions{})
}

// cases loads the repository's own cases, and further ones where the
// environment names a folder, filtered by CHANCERY_CORPUS_CASES.
func cases(t *testing.T) []*corpus.Case {
	t.Helper()
	all, err := corpus.Load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv(corpus.FolderVariable); dir != "" {
		more, err := corpus.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range more {
			if !slices.ContainsFunc(all, func(o *corpus.Case) bool { return o.Name == c.Name }) {
				all = append(all, c)
			}
		}
	}
	if only := os.Getenv("CHANCERY_CORPUS_CASES"); only != "" {
		all = slices.DeleteFunc(all, func(c *corpus.Case) bool {
			return !slices.ContainsFunc(strings.Split(only, ","), func(s string) bool { return strings.HasPrefix(c.Name, s) })
		})
	}
	return all
}

// differs lists the cases that the compiler does not play as recorded, and why:
// kinds that it does not serve yet, and faults of the recorded implementation
// that it does not repeat. A name ending in * stands for all that begin so.
var differs = map[string]string{
	"ingress-and-mapping":                          "Ingress is not served yet",
	"ingress-default-backend":                      "Ingress is not served yet",
	"ingress-hosts":                                "Ingress is not served yet",
	"ingress-prefix-and-exact":                     "Ingress is not served yet",
	"kat-map-host-header-mapping-ingress-http":     "Ingress is not served yet",
	"kat-map-simple-ingress-with-annotations-http": "Ingress is not served yet",
	"kat-map-simple-mapping-ingress-http":          "Ingress is not served yet",
	"kat-tls-ingress-test":                         "Ingress is not served yet",
	"tcp-and-http-ports":                           "TCPMapping is not served yet",
	"tcp-no-listener":                              "TCPMapping is not served yet",
	"tcp-plain":                                    "TCPMapping is not served yet",
	"tcp-sni":                                      "TCPMapping is not served yet",
	"tcp-tls-originate":                            "TCPMapping is not served yet",
	"kat-tcp-*":                                    "TCPMapping is not served yet",
	"kat-tracing-external-auth-test":               "TracingService is not served yet",
	"kat-tracing-test-short-trace-id":              "TracingService is not served yet",
	"grpc-mapping":                                 "a Mapping with grpc makes every Mapping of its service speak HTTP/2: not repeated",
	"mapping-error-overrides":                      "a Mapping with error_response_overrides is not routed at all: not repeated",
}

func why(name string) string {
	if reason, ok := differs[name]; ok {
		return reason
	}
	for pattern, reason := range differs {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(name, prefix) {
			return reason
		}
	}
	return ""
}

// How many cases pass: those of this repository, and with the further ones.
const (
	ownPass = 128
	allPass = 271
)

// TestCompile replays the corpus through what the compiler makes of it, each
// case from a static bootstrap on an Envoy of its own.
func TestCompile(t *testing.T) { play(t, corpus.Static(testbed.Envoy(t), compileStatic)) }

// TestThroughEdge replays the corpus served by the real edge by delta ADS.
func TestThroughEdge(t *testing.T) { play(t, throughEdge(testbed.Envoy(t))) }

func play(t *testing.T, serve corpus.Serve) {
	t.Helper()
	all := cases(t)
	result, err := corpus.Run(t.Context(), corpus.Options{Serve: serve, Dir: t.TempDir(), Attempts: 3}, all)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range result.Cases {
		switch reason := why(c.Name); {
		case len(c.Failures) > 0 && reason == "":
			t.Errorf("%s: %s", c.Name, strings.Join(c.Failures, "\n    "))
		case len(c.Failures) > 0:
			t.Logf("%s differs: %s", c.Name, reason)
		case reason != "":
			t.Logf("%s passes although it may differ: %s", c.Name, reason)
		}
	}
	t.Logf("%d of %d cases pass, %d probes", result.Passed(), len(all), result.Probes())
	want := ownPass
	if os.Getenv(corpus.FolderVariable) != "" {
		want = allPass
	}
	if os.Getenv("CHANCERY_CORPUS_CASES") == "" && result.Passed() < want {
		t.Errorf("%d cases pass, want at least %d", result.Passed(), want)
	}
}

package corpus_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
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
		if err != nil {
			break
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

// compileCase compiles a case offline into a static bootstrap.
func compileCase(_ context.Context, c *corpus.Case) ([]byte, error) {
	s, err := readSite(c.ResourcesFile())
	if err != nil {
		return nil, err
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
		return nil, fmt.Errorf("reference check: %v", problems)
	}
	needs, err := live.NeedsOf(result.Snapshot)
	if err != nil {
		return nil, err
	}
	plane := live.NewPlane()
	plane.SetNeeds(needs)
	plane.SetObjects("corpus", s.live, false)
	answers := plane.Answers(time.Unix(1_700_000_000, 0))
	endpoints := map[string]ir.Endpoints{}
	for name, e := range answers.Endpoints {
		endpoints[name] = e.Endpoints
	}
	secrets := map[string]ir.Secret{}
	for _, ref := range needs.Secrets {
		data := s.secrets[ref.Namespace+"/"+ref.Secret]
		secret := ir.Secret{Name: ref.Name}
		if ref.Use == ir.UseCertificate {
			secret.Chain, secret.Key = firstOf(data, "tls.crt", "cert-chain.pem"), firstOf(data, "tls.key", "user.key", "key.pem")
		} else {
			secret.CA = firstOf(data, "tls.crt", "user.key", "root-cert.pem", "ca.crt")
			if ref.CRL != "" {
				ns := ref.CRLNamespace
				if ns == "" {
					ns = ref.Namespace
				}
				secret.CRL = s.secrets[ns+"/"+ref.CRL]["crl.pem"]
			}
		}
		secrets[ref.Name] = secret
	}
	return envoy.BootstrapStatic(result.Snapshot, endpoints, secrets, envoy.StaticOptions{})
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

// TestCompile replays the corpus through what the compiler makes of it.
func TestCompile(t *testing.T) {
	all := cases(t)
	result, err := corpus.Run(t.Context(), corpus.Options{
		Serve: corpus.Static(testbed.Envoy(t), compileCase), Dir: t.TempDir(), Jobs: 3, Attempts: 3,
	}, all)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range result.Failed() {
		t.Logf("FAILS %s: %s", c.Name, strings.Join(c.Failures, "\n    "))
	}
	t.Logf("%d of %d cases pass, %d probes", result.Passed(), len(all), result.Probes())
}

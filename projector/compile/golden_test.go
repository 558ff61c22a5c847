package compile_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
	"github.com/chancery-dev/chancery/projector/envoy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden compiles each file of testdata: the first section is the objects,
// the others are what becomes of them. Sections named input-CLUSTER are the
// objects of further clusters.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var objects []*projector.Object
			out := &txtar.Archive{Comment: archive.Comment}
			for _, f := range archive.Files {
				cluster, isInput := strings.CutPrefix(f.Name, "input-")
				if f.Name != "input" && !isInput {
					continue
				}
				if f.Name == "input" {
					cluster = "east"
				}
				objects = append(objects, readYAML(t, ledger.ClusterName(cluster), f.Data, len(objects))...)
				out.Files = append(out.Files, f)
			}
			result, c := compile.Full(projector.DefaultSettings(), slices.Values(objects), projector.Overlay{})
			if problems := envoy.Check(result.Snapshot); len(problems) > 0 {
				t.Fatalf("the snapshot is not consistent: %v", problems)
			}
			out.Files = append(out.Files,
				txtar.File{Name: "listeners", Data: listeners(t, result.Snapshot)},
				txtar.File{Name: "routes", Data: routes(t, result.Snapshot)},
				txtar.File{Name: "upstreams", Data: upstreams(t, result.Snapshot)},
				txtar.File{Name: "reports", Data: reports(c)},
			)
			out.Files = slices.DeleteFunc(out.Files, func(f txtar.File) bool { return len(f.Data) == 0 })
			got := txtar.Format(out)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(txtar.Format(archive)), string(got)); diff != "" {
				t.Errorf("%s (run with -update after looking):\n%s", file, diff)
			}
		})
	}
}

func readYAML(t *testing.T, cluster ledger.ClusterName, text []byte, from int) []*projector.Object {
	t.Helper()
	var keys []ledger.ObjectKey
	var raws [][]byte
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Metadata   struct{ Name, Namespace string }
		}
		if err := yaml.Unmarshal(document, &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind == "" {
			continue
		}
		raw, err := yaml.YAMLToJSON(document)
		if err != nil {
			t.Fatal(err)
		}
		group := ""
		if strings.HasPrefix(head.APIVersion, getambassador.Group) {
			group = getambassador.Group
		}
		ns := head.Metadata.Namespace
		if ns == "" {
			ns = "default"
			raw = bytes.Replace(raw, []byte(`"metadata":{`), []byte(`"metadata":{"namespace":"default",`), 1)
		}
		keys = append(keys, ledger.ObjectKey{Cluster: cluster, Group: group, Kind: head.Kind, Namespace: ns, Name: head.Metadata.Name})
		raws = append(raws, raw)
	}
	objects := compile.Objects(keys, raws)
	for _, o := range objects {
		o.Seq += ledger.Seq(from)
		o.FirstSeq = o.Seq
	}
	return objects
}

// sorted returns the resources of a type by name, decoded.
func sorted[T any](t *testing.T, s *projector.Snapshot, typ projector.ResourceType) []T {
	t.Helper()
	resources := slices.Collect(s.All(typ))
	slices.SortFunc(resources, func(a, b projector.Resource) int { return strings.Compare(a.Name, b.Name) })
	var out []T
	for _, r := range resources {
		m, err := envoy.Message(r, typ)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, any(m).(T))
	}
	return out
}

func listeners(t *testing.T, s *projector.Snapshot) []byte {
	var b bytes.Buffer
	for _, l := range sorted[*listenerv3.Listener](t, s, projector.Listeners) {
		a := l.GetAddress().GetSocketAddress()
		fmt.Fprintf(&b, "%s %s:%d", l.Name, a.GetAddress(), a.GetPortValue())
		for _, f := range l.ListenerFilters {
			fmt.Fprintf(&b, " %s", strings.TrimPrefix(f.Name, "envoy.filters.listener."))
		}
		b.WriteByte('\n')
		for _, c := range l.FilterChains {
			fmt.Fprintf(&b, "  chain %s", c.Name)
			if names := c.GetFilterChainMatch().GetServerNames(); len(names) > 0 {
				fmt.Fprintf(&b, " sni=%s", strings.Join(names, ","))
			}
			if c.TransportSocket != nil {
				b.WriteString(" tls")
			}
			b.WriteByte('\n')
		}
	}
	for r := range sortedNeeds(s, projector.SecretNeeds) {
		fmt.Fprintf(&b, "secret %s\n", r.Bytes)
	}
	return b.Bytes()
}

func sortedNeeds(s *projector.Snapshot, typ projector.ResourceType) func(func(projector.Resource) bool) {
	resources := slices.Collect(s.All(typ))
	slices.SortFunc(resources, func(a, b projector.Resource) int { return strings.Compare(a.Name, b.Name) })
	return slices.Values(resources)
}

func routes(t *testing.T, s *projector.Snapshot) []byte {
	var b bytes.Buffer
	for _, table := range sorted[*routev3.RouteConfiguration](t, s, projector.Routes) {
		fmt.Fprintf(&b, "%s\n", table.Name)
		for _, v := range table.VirtualHosts {
			if v.Domains[0] == envoy.SentinelHost(table.Name) {
				continue
			}
			fmt.Fprintf(&b, "  %s [%s]\n", v.Name, strings.Join(v.Domains, " "))
			for _, r := range v.Routes {
				fmt.Fprintf(&b, "    %s -> %s\n", matchText(r.Match), actionText(r))
			}
		}
	}
	return b.Bytes()
}

func matchText(m *routev3.RouteMatch) string {
	var parts []string
	switch p := m.PathSpecifier.(type) {
	case *routev3.RouteMatch_Prefix:
		parts = append(parts, p.Prefix+"*")
	case *routev3.RouteMatch_Path:
		parts = append(parts, "="+p.Path)
	case *routev3.RouteMatch_SafeRegex:
		parts = append(parts, "~"+p.SafeRegex.Regex)
	}
	if m.CaseSensitive != nil && !m.CaseSensitive.Value {
		parts = append(parts, "nocase")
	}
	for _, h := range m.Headers {
		parts = append(parts, h.Name+": "+plain(h.GetStringMatch()))
	}
	for _, q := range m.QueryParameters {
		parts = append(parts, "?"+q.Name+"="+plain(q.GetStringMatch()))
	}
	if f := m.GetRuntimeFraction().GetDefaultValue(); f != nil {
		parts = append(parts, fmt.Sprintf("%d%%", f.Numerator))
	}
	return strings.Join(parts, ", ")
}

// plain is a message's text form with the spaces that protobuf varies.
func plain(m fmt.Stringer) string {
	return strings.Join(strings.Fields(m.String()), " ")
}

func actionText(r *routev3.Route) string {
	var parts []string
	switch a := r.Action.(type) {
	case *routev3.Route_Route:
		parts = append(parts, a.Route.GetCluster())
		if p := a.Route.PrefixRewrite; p != "" {
			parts = append(parts, "rewrite="+p)
		}
		if re := a.Route.RegexRewrite; re != nil {
			parts = append(parts, "rewrite~"+re.Pattern.Regex+"="+re.Substitution)
		}
		if h := a.Route.GetHostRewriteLiteral(); h != "" {
			parts = append(parts, "host="+h)
		}
		if d := a.Route.Timeout; d != nil && d.AsDuration().Milliseconds() != 3000 {
			parts = append(parts, "timeout="+d.AsDuration().String())
		}
		for _, m := range a.Route.RequestMirrorPolicies {
			parts = append(parts, fmt.Sprintf("mirror=%s %d%%", m.Cluster, m.RuntimeFraction.GetDefaultValue().GetNumerator()))
		}
		for _, l := range a.Route.RateLimits {
			var actions []string
			for _, action := range l.Actions {
				actions = append(actions, plain(action))
			}
			parts = append(parts, "limit["+strings.Join(actions, " ")+"]")
		}
		for _, u := range a.Route.UpgradeConfigs {
			parts = append(parts, "upgrade="+u.UpgradeType)
		}
	case *routev3.Route_Redirect:
		parts = append(parts, "redirect "+plain(a.Redirect))
	case *routev3.Route_DirectResponse:
		parts = append(parts, fmt.Sprintf("answer %d", a.DirectResponse.Status))
	}
	for _, h := range r.RequestHeadersToAdd {
		parts = append(parts, "+"+h.Header.Key+"="+h.Header.Value)
	}
	for _, h := range r.RequestHeadersToRemove {
		parts = append(parts, "-"+h)
	}
	for name := range r.TypedPerFilterConfig {
		if strings.Contains(name, "ext_authz") {
			parts = append(parts, "noauth")
		}
	}
	return strings.Join(parts, " ")
}

func upstreams(t *testing.T, s *projector.Snapshot) []byte {
	var b bytes.Buffer
	for _, c := range sorted[*clusterv3.Cluster](t, s, projector.Upstreams) {
		fmt.Fprintf(&b, "%s", c.Name)
		for _, l := range c.GetLoadAssignment().GetEndpoints() {
			for _, e := range l.LbEndpoints {
				a := e.GetEndpoint().GetAddress().GetSocketAddress()
				fmt.Fprintf(&b, " %s:%d", a.Address, a.GetPortValue())
			}
		}
		if c.EdsClusterConfig != nil {
			fmt.Fprintf(&b, " endpoints=%s", c.EdsClusterConfig.ServiceName)
		}
		if c.TransportSocket != nil {
			b.WriteString(" tls")
		}
		fmt.Fprintf(&b, " stat=%s\n", c.AltStatName)
	}
	for r := range sortedNeeds(s, projector.EndpointNeeds) {
		fmt.Fprintf(&b, "need %s\n", r.Bytes)
	}
	return b.Bytes()
}

// reports writes the reports that say anything.
func reports(c *compile.Compiler) []byte {
	var lines []string
	for r := range c.Reports() {
		if r.State != projector.Accepted {
			lines = append(lines, fmt.Sprintf("%s: %s\n", r.Object, r.State))
		}
		for _, f := range r.Findings {
			line := fmt.Sprintf("%s: %s %s", r.Object, f.Severity, f.Code)
			if f.Path != "" {
				line += " " + f.Path
			}
			line += ": " + f.Message
			if f.Other != nil {
				line += " (" + f.Other.String() + ")"
			}
			lines = append(lines, line+"\n")
		}
	}
	sort.SliceStable(lines, func(i, j int) bool {
		return strings.SplitN(lines[i], ": ", 2)[0] < strings.SplitN(lines[j], ": ", 2)[0]
	})
	return []byte(strings.Join(lines, ""))
}

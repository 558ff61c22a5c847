package repo

import "strings"

// may lists for each package the packages of ours that it may import. A package that is not listed may import
// none. Test files are free. Nothing lists chaos, and so only cmd, by its "...", and tests reach it.
var may = map[string][]string{
	"ledger/boltstore":  {"ledger"},
	"ledger/natsstream": {"ledger"},
	"ledger/ledgertest": {"ledger", "ledger/..."},

	"collector":        {"ledger", "api/..."},
	"collector/dir":    {"collector", "ledger", "api/..."},
	"collector/kube":   {"collector", "ledger", "api/..."},
	"collector/outbox": {"collector", "ledger"},
	"collector/status": {"collector", "ledger", "projector", "api/..."},
	"collector/stream": {"collector", "ledger", "ledger/natsstream"},

	"collector/collectortest": {"collector", "ledger"},

	"projector":          {"ledger", "projector/ir"},
	"projector/emissary": {"ledger", "projector", "projector/ir", "api/..."},
	"projector/gateway":  {"ledger", "projector", "projector/ir", "api/..."},
	"projector/ingress":  {"ledger", "projector", "projector/ir", "api/..."},
	"projector/envoy":    {"projector", "projector/ir"},
	"projector/compile":  {"ledger", "projector/...", "api/..."},
	"projector/shelf":    {"projector", "projector/ir", "ledger"},

	"federation":      {"ledger", "projector", "api/..."},
	"federation/hub":  {"federation", "ledger/...", "projector/...", "api/..."},
	"federation/live": {"federation", "ledger", "projector", "projector/ir", "api/..."},

	"xds":         {"xds/cache", "ledger", "projector", "projector/ir", "projector/envoy", "projector/shelf"},
	"xds/cache":   {"ledger", "projector"},
	"xds/process": {},
	"xds/taste":   {"xds", "xds/cache", "xds/process", "ledger", "projector", "projector/ir", "projector/envoy"},
	"xds/gossip":  {"xds", "ledger", "projector"},

	"console":      {"ledger", "ledger/boltstore", "projector", "projector/envoy", "projector/shelf", "federation", "federation/hub", "federation/pki", "xds", "api/..."},
	"console/show": {"console"},

	"chaos":        {"..."},
	"chaos/...":    {"..."},
	"cmd/chancery": {"..."},

	"api/...":      {"api/..."},
	"internal/...": {"internal/..."},
	"internal/offline": {
		"collector", "collector/dir", "federation/live", "ledger", "projector", "projector/compile", "projector/envoy", "projector/ir",
	},
}

// testOnly lists the packages that only tests, and other packages of the kind, may import.
var testOnly = []string{"ledger/ledgertest", "collector/collectortest", "internal/testbed", "internal/corpus", "internal/repo"}

// Imports returns a problem for each import of ours that the map does not allow.
func Imports(files []File) []Problem {
	parsed, problems := parse(files)
	for _, f := range parsed {
		if f.isTest() {
			continue
		}
		for _, spec := range f.ast.Imports {
			ours, ok := strings.CutPrefix(importPath(spec), Module+"/")
			switch {
			case !ok:
			case matches(testOnly, ours) && !matches(testOnly, f.pkg()):
				problems = append(problems, f.problem(spec, "%s is for tests and may not be imported by %s", ours, f.pkg()))
			case !allowed(f.pkg(), ours):
				problems = append(problems, f.problem(spec, "%s may not import %s; the map is in internal/repo", f.pkg(), ours))
			}
		}
	}
	return problems
}

// allowed looks the package up by its own name, and by the tree that it is in where its own name is not listed.
func allowed(pkg, imported string) bool {
	if list, ok := may[pkg]; ok {
		return matches(list, imported)
	}
	for pattern, list := range may {
		if strings.HasSuffix(pattern, "/...") && matches([]string{pattern}, pkg) && matches(list, imported) {
			return true
		}
	}
	return false
}

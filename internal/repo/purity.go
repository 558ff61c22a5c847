package repo

import (
	"go/ast"
	"path"
	"slices"
	"strconv"
)

// pure lists the packages that are functions of their arguments: replay, incremental compilation and simulation
// are exact because of it. The same list stands in .golangci.yml.
var pure = []string{
	"ledger",
	"projector",
	"projector/ir", "projector/emissary", "projector/gateway", "projector/ingress", "projector/envoy", "projector/compile",
	"federation",
}

// impure lists what a pure package may not import: network, disk, processes, randomness and logs.
var impure = []string{
	"crypto/rand", "math/rand", "math/rand/v2",
	"io/ioutil", "os/...", "path/filepath", "syscall", "golang.org/x/sys/...", "go.etcd.io/bbolt",
	"net", "net/http/...", "net/rpc/...", "google.golang.org/grpc/...",
	"github.com/nats-io/...", "k8s.io/client-go/...",
	"log/...",
}

// clock lists by package what reads or waits for the machine's clock, or depends on its time zone. Package context is
// not impure as such, for an interface may ask for a context that a pure implementation does not look at.
var clock = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Local", "LoadLocation"},
	"context": {
		"AfterFunc", "Background", "WithCancel", "WithCancelCause",
		"WithDeadline", "WithDeadlineCause", "WithTimeout", "WithTimeoutCause",
	},
}

// Purity returns a problem for each import, clock reading and goroutine in a pure package.
func Purity(files []File) []Problem {
	parsed, problems := parse(files)
	for _, f := range parsed {
		if f.isTest() || !slices.Contains(pure, f.pkg()) {
			continue
		}
		forbidden := map[string][]string{} // by what this file calls the package
		for _, spec := range f.ast.Imports {
			imported := importPath(spec)
			if matches(impure, imported) {
				problems = append(problems, f.problem(spec, "%s is pure and may not import %s", f.pkg(), imported))
			}
			if spec.Name != nil && spec.Name.Name == "." {
				problems = append(problems, f.problem(spec, "%s is pure and may not import %s without its name", f.pkg(), imported))
			}
			if names, ok := clock[imported]; ok {
				forbidden[localName(spec)] = names
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				problems = append(problems, f.problem(n, "%s is pure and may not start a goroutine", f.pkg()))
			case *ast.SelectorExpr:
				id, ok := n.X.(*ast.Ident)
				if ok && slices.Contains(forbidden[id.Name], n.Sel.Name) {
					problems = append(problems, f.problem(n, "%s is pure and may not use %s.%s; take the time as an argument", f.pkg(), id.Name, n.Sel.Name))
				}
			}
			return true
		})
	}
	return problems
}

// localName returns what the importing file calls the package, given that its name is the last element of its path.
func localName(spec *ast.ImportSpec) string {
	if spec.Name != nil {
		return spec.Name.Name
	}
	p, _ := strconv.Unquote(spec.Path.Value)
	return path.Base(p)
}

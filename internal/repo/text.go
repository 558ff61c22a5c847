package repo

import (
	"bytes"
	"go/ast"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// Docs returns a problem for each package whose files carry no package comment in the usual form.
func Docs(files []File) []Problem {
	parsed, problems := parse(files)
	first := map[string]goFile{} // package folder → its first file
	documented := map[string]bool{}
	for _, f := range parsed {
		if f.isTest() {
			continue
		}
		if _, ok := first[f.pkg()]; !ok {
			first[f.pkg()] = f
		}
		want := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			want = "Command "
		}
		if f.ast.Doc != nil && strings.HasPrefix(f.ast.Doc.Text(), want) {
			documented[f.pkg()] = true
		}
	}
	for pkg, f := range first {
		if !documented[pkg] {
			problems = append(problems, Problem{Path: f.Path, Text: "package " + pkg + " has no comment that says what it is for"})
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int { return strings.Compare(a.Path, b.Path) })
	return problems
}

// Replaces returns a problem for each replace directive in the root go.mod: with one, the module cannot be
// installed by its name.
func Replaces(files []File) []Problem {
	var problems []Problem
	for _, f := range files {
		if f.Path != "go.mod" {
			continue
		}
		mod, err := modfile.Parse(f.Path, f.Source, nil)
		if err != nil {
			problems = append(problems, Problem{Path: f.Path, Text: err.Error()})
			continue
		}
		for _, r := range mod.Replace {
			problems = append(problems, Problem{Path: f.Path, Line: r.Syntax.Start.Line, Text: "go.mod may not replace " + r.Old.Path})
		}
	}
	return problems
}

// Skips returns a problem for each test that can skip itself: what is missing is a failure with its remedy.
func Skips(files []File) []Problem {
	parsed, problems := parse(files)
	for _, f := range parsed {
		if !f.isTest() {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
				problems = append(problems, f.problem(call, "a test may not skip itself; fail with what to run"))
			}
			return true
		})
	}
	return problems
}

// forbidden lists patterns, each with pieces of text one of which it needs: looking for those first keeps the slow
// search away from files that have none. All are put together from parts, so that this file does not match them.
var forbidden = []struct {
	needs   []string
	pattern *regexp.Regexp
	text    string
}{
	{
		[]string{"/work" + "/", "/tmp" + "/", "/home" + "/", "/Users" + "/", "/farm" + "/", "/root" + "/"},
		regexp.MustCompile(`(?m)(^|[^.\w/-])/` + `((work|tmp|home|Users|farm)/|root/(\.|go/))`),
		"a path of one machine",
	},
	{
		[]string{"://proxy", "://registry", "://index", "://files", "://deb", "://repo"},
		regexp.MustCompile(`https?://` + `(proxy|registry|index|files|deb|repo[0-9]*)` + `\.[a-z]`),
		"the host of a registry; use its client's own configuration",
	},
	{
		[]string{"pypi", "pythonhosted", "npmjs", "crates", "docker", "gcr", "ghcr", "quay"},
		regexp.MustCompile(`\b(pypi|pythonhosted|npmjs|crates|docker|gcr|ghcr|quay)` + `\.(org|io|com)\b`),
		"the host of a registry; use its client's own configuration",
	},
	{
		[]string{"TO" + "DO", "FIX" + "ME"},
		regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`),
		"unfinished; finish it or file an issue",
	},
}

// Text returns a problem for each line of a text file that names a path of one machine, the host of a registry
// or unfinished work. Checksum files are left out: their module names are what they are.
func Text(files []File) []Problem {
	var problems []Problem
	for _, f := range files {
		if strings.HasSuffix(f.Path, ".sum") || bytes.IndexByte(f.Source, 0) >= 0 {
			continue
		}
		for _, rule := range forbidden {
			if !slices.ContainsFunc(rule.needs, func(s string) bool { return bytes.Contains(f.Source, []byte(s)) }) {
				continue
			}
			for _, at := range rule.pattern.FindAllIndex(f.Source, -1) {
				problems = append(problems, Problem{
					Path: f.Path,
					Line: 1 + bytes.Count(f.Source[:at[1]], []byte("\n")),
					Text: string(bytes.TrimSpace(f.Source[at[0]:at[1]])) + ": " + rule.text,
				})
			}
		}
	}
	return problems
}

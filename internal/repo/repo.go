// Package repo checks the repository itself: which package may import which, that the pure packages stay pure,
// that every package says what it is for, and that nothing is committed which holds on one machine only.
//
// Each check is a function from files to problems, so that a test can plant a violation in a source that
// exists nowhere and see it found; the test of this package then runs all of them on the tree. What needs types
// (errors dropped, switches not exhaustive) is golangci-lint's, configured in .golangci.yml.
package repo

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Module is our module path.
const Module = "github.com/chancery-dev/chancery"

// A File is one file of the repository.
type File struct {
	Path   string // relative to the root, with forward slashes
	Source []byte
}

// A Problem is one violation, with what to do about it where that is not plain.
type Problem struct {
	Path string
	Line int // 1 ≤ Line, or 0 where the whole file is meant
	Text string
}

// String returns the problem in the form that editors follow: path:line: text.
func (p Problem) String() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.Path, p.Text)
	}
	return fmt.Sprintf("%s:%d: %s", p.Path, p.Line, p.Text)
}

// Files returns every file under root that git tracks or would track, and that exists.
func Files(root string) ([]File, error) {
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the files of %s: %w", root, err)
	}
	var files []File
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		full := filepath.Join(root, filepath.FromSlash(name))
		info, err := os.Lstat(full)
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		if err != nil {
			return nil, fmt.Errorf("list the files of %s: %w", root, err)
		}
		if !info.Mode().IsRegular() {
			continue
		}
		source, err := os.ReadFile(full)
		if err != nil {
			return nil, fmt.Errorf("list the files of %s: %w", root, err)
		}
		files = append(files, File{Path: name, Source: source})
	}
	return files, nil
}

// A goFile is a parsed Go file of the root module.
type goFile struct {
	File
	set *token.FileSet
	ast *ast.File
}

// parse returns the Go files outside testdata and the nested module, and a problem for each that does not parse.
func parse(files []File) ([]goFile, []Problem) {
	var (
		parsed   []goFile
		problems []Problem
	)
	for _, f := range files {
		if !strings.HasSuffix(f.Path, ".go") || strings.HasPrefix(f.Path, "tools/") ||
			strings.Contains("/"+f.Path, "/testdata/") {
			continue
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, f.Path, f.Source, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			problems = append(problems, Problem{Path: f.Path, Text: err.Error()})
			continue
		}
		parsed = append(parsed, goFile{File: f, set: set, ast: tree})
	}
	return parsed, problems
}

// pkg returns the folder of the file relative to the root; the root itself is ".".
func (f goFile) pkg() string { return path.Dir(f.Path) }

func (f goFile) isTest() bool { return strings.HasSuffix(f.Path, "_test.go") }

func (f goFile) problem(at ast.Node, format string, args ...any) Problem {
	return Problem{Path: f.Path, Line: f.set.Position(at.Pos()).Line, Text: fmt.Sprintf(format, args...)}
}

// importPath returns the path of an import; the parser has checked that it is a string.
func importPath(spec *ast.ImportSpec) string {
	p, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		panic(fmt.Sprintf("import path %s passed the parser: %v", spec.Path.Value, err))
	}
	return p
}

// matches reports whether pkg is one of the patterns. "x/..." is x and all below it, "..." is everything.
func matches(patterns []string, pkg string) bool {
	for _, pattern := range patterns {
		prefix, tree := strings.CutSuffix(pattern, "...")
		switch {
		case !tree && pattern == pkg:
			return true
		case tree && (strings.HasPrefix(pkg, prefix) || pkg == strings.TrimSuffix(prefix, "/")):
			return true
		}
	}
	return false
}

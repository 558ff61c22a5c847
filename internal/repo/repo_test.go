package repo_test

import (
	"strings"
	"testing"

	"github.com/chancery-dev/chancery/internal/repo"
	"github.com/chancery-dev/chancery/internal/testbed"
)

var checks = map[string]func([]repo.File) []repo.Problem{
	"imports":  repo.Imports,
	"purity":   repo.Purity,
	"docs":     repo.Docs,
	"replaces": repo.Replaces,
	"skips":    repo.Skips,
	"text":     repo.Text,
}

func TestTree(t *testing.T) {
	files, err := repo.Files(testbed.ModuleRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("found %d files, too few to be the repository", len(files))
	}
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			for _, p := range check(files) {
				t.Error(p)
			}
		})
	}
}

// TestPlanted shows each check finding what it is there for, and leaving its neighbour in peace.
// An empty want means that nothing may be found.
func TestPlanted(t *testing.T) {
	const ours = `"github.com/chancery-dev/chancery/`
	for _, c := range []struct {
		name, check, path, source, want string
	}{
		{"ledger imports projector", "imports", "ledger/x.go", "package ledger\nimport _ " + ours + `projector"`, "ledger/x.go:2: ledger may not import projector;"},
		{"ir imports ledger", "imports", "projector/ir/x.go", "package ir\nimport _ " + ours + `ledger"`, "projector/ir may not import ledger;"},
		{"projector imports ledger", "imports", "projector/x.go", "package projector\nimport _ " + ours + `ledger"`, ""},
		{"a tree covers its root", "imports", "projector/compile/x.go", "package compile\nimport _ " + ours + `projector"`, ""},
		{"a tree covers its leaves", "imports", "projector/emissary/x.go", "package emissary\nimport _ " + ours + `api/getambassador/v2"`, ""},
		{"a prefix is no tree", "imports", "projector/emissary/x.go", "package emissary\nimport _ " + ours + `apis"`, "may not import apis;"},
		{"unlisted imports ours", "imports", "misc/x.go", "package misc\nimport _ " + ours + `ledger"`, "misc may not import ledger;"},
		{"unlisted imports others", "imports", "misc/x.go", "package misc\nimport _ \"fmt\"", ""},
		{"hub imports chaos", "imports", "federation/hub/x.go", "package hub\nimport _ " + ours + `chaos"`, "may not import chaos;"},
		{"cmd imports chaos", "imports", "cmd/chancery/x.go", "package main\nimport _ " + ours + `chaos"`, ""},
		{"below chaos", "imports", "chaos/fault/x.go", "package fault\nimport _ " + ours + `ledger"`, ""},
		{"a test imports chaos", "imports", "ledger/x_test.go", "package ledger_test\nimport _ " + ours + `chaos"`, ""},
		{"cmd imports a test package", "imports", "cmd/chancery/x.go", "package main\nimport _ " + ours + `internal/testbed"`, "internal/testbed is for tests"},
		{"no Go at all", "imports", "ledger/x.go", "packet ledger", "expected 'package'"},

		{"clock", "purity", "ledger/x.go", "package ledger\nimport \"time\"\nvar x = time.Now()", "ledger/x.go:3: ledger is pure and may not use time.Now;"},
		{"clock by value", "purity", "ledger/x.go", "package ledger\nimport \"time\"\nvar now = time.Now", "time.Now"},
		{"clock renamed", "purity", "projector/ir/x.go", "package ir\nimport t \"time\"\nvar x = t.NewTicker(1)", "t.NewTicker"},
		{"clock without its name", "purity", "federation/x.go", "package federation\nimport . \"time\"\nvar x = Now()", "without its name"},
		{"time as a value", "purity", "ledger/x.go", "package ledger\nimport \"time\"\nvar x = time.Unix(1, 0).Add(time.Second)", ""},
		{"deadline", "purity", "ledger/x.go", "package ledger\nimport \"context\"\nvar f = context.WithTimeout", "context.WithTimeout"},
		{"a context as an argument", "purity", "ledger/x.go", "package ledger\nimport \"context\"\nfunc f(context.Context) {}", ""},
		{"goroutine", "purity", "projector/x.go", "package projector\nfunc f() { go f() }", "may not start a goroutine"},
		{"randomness", "purity", "projector/envoy/x.go", "package envoy\nimport _ \"math/rand/v2\"", "may not import math/rand/v2"},
		{"disk", "purity", "projector/compile/x.go", "package compile\nimport _ \"os\"", "may not import os"},
		{"network", "purity", "projector/emissary/x.go", "package emissary\nimport _ \"net/http\"", "may not import net/http"},
		{"addresses are values", "purity", "projector/emissary/x.go", "package emissary\nimport _ \"net/netip\"", ""},
		{"transport", "purity", "ledger/x.go", "package ledger\nimport _ \"github.com/nats-io/nats.go\"", "may not import github.com/nats-io/nats.go"},
		{"a shell reads the clock", "purity", "ledger/boltstore/x.go", "package boltstore\nimport \"time\"\nvar x = time.Now()", ""},
		{"a test of a core", "purity", "ledger/x_test.go", "package ledger_test\nimport _ \"os\"", ""},

		{"no doc", "docs", "xds/x.go", "// A remark.\n\npackage xds", "package xds has no comment"},
		{"another's doc", "docs", "xds/x.go", "// Package yds is something else.\npackage xds", "package xds has no comment"},
		{"a doc", "docs", "xds/x.go", "// Package xds serves.\npackage xds", ""},
		{"a command without doc", "docs", "cmd/chancery/x.go", "package main", "has no comment"},
		{"a command", "docs", "cmd/chancery/x.go", "// Command chancery is it.\npackage main", ""},

		{"replace", "replaces", "go.mod", "module x\n\ngo 1.26\n\nreplace a.example/b => ../b\n", "go.mod:5: go.mod may not replace a.example/b"},
		{"no replace", "replaces", "go.mod", "module x\n\ngo 1.26\n", ""},
		{"a nested module replaces", "replaces", "tools/go.mod", "module x\n\ngo 1.26\n\nreplace a.example/b => ../b\n", ""},

		{"skip", "skips", "xds/x_test.go", "package xds_test\nfunc f(t T) { t.Skip(\"later\") }", "xds/x_test.go:2: a test may not skip"},
		{"skip with a format", "skips", "xds/x_test.go", "package xds_test\nfunc f(t T) { t.Skipf(\"%d\", 1) }", "may not skip"},
		{"not a test", "skips", "xds/x.go", "package xds\nfunc f(r R) { r.Skip(3) }", ""},

		{"machine path", "text", "README.md", "run\nit in /" + "work/main\n", "README.md:2: /" + "work/: a path of one machine"},
		{"machine path quoted", "text", "a/x.go", "package a\nconst p = \"/" + "tmp/x\"", "a path of one machine"},
		{"machine path of the administrator", "text", "x.sh", "ls /" + "root/.cache", "a path of one machine"},
		{"a route", "text", "x.json", "\"/" + "root/x\"", ""},
		{"a path inside another", "text", "README.md", "see docs/" + "work/x and https://a.example/" + "home/x", ""},
		{"registry", "text", "Makefile", "X = https://" + "proxy.example.org", "the host of a registry"},
		{"registry by name", "text", "tools/x.sh", "curl files.python" + "hosted.org", "the host of a registry"},
		{"unfinished", "text", "a/x.go", "package a // TO" + "DO: more", "unfinished"},
		{"checksums", "text", "go.sum", "gcr" + ".io/x v1.0.0 h1:", ""},
		{"binary", "text", "x.png", "\x00/" + "tmp/", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, p := range checks[c.check]([]repo.File{{Path: c.path, Source: []byte(c.source)}}) {
				got = append(got, p.String())
			}
			switch {
			case c.want == "" && len(got) > 0:
				t.Errorf("found %q, want nothing", got)
			case c.want != "" && !strings.Contains(strings.Join(got, "\n"), c.want):
				t.Errorf("found %q, want %q in it", got, c.want)
			}
		})
	}
}

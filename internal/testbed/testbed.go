// Package testbed gives tests the real parts that they run against.
//
// It promises that a missing part fails the test with the command that brings it: nothing is skipped because
// something is not installed. It starts nothing by itself; the package under test, or the test, does that.
package testbed

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// EnvoyVersion is the version that `make envoy` installs and that tests expect.
const EnvoyVersion = "1.40.0"

// EnvoyVariable is the environment variable that names another Envoy binary than the one in .cache.
const EnvoyVariable = "CHANCERY_ENVOY"

// ModuleRoot returns the absolute path of the folder that holds our go.mod, looked for upwards from
// the working directory (which go test sets to the package's own folder).
func ModuleRoot(tb testing.TB) string {
	tb.Helper()
	start, err := os.Getwd()
	if err != nil {
		tb.Fatalf("find the module's root: %v", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/chancery-dev/chancery\n") {
			return dir
		}
		if dir == filepath.Dir(dir) {
			tb.Fatalf("find the module's root: no go.mod of ours at or above %s", start)
		}
	}
}

// Envoy returns the absolute path of the Envoy binary: what CHANCERY_ENVOY names, else what `make envoy`
// installed. Without either the test fails.
func Envoy(tb testing.TB) string {
	tb.Helper()
	path := os.Getenv(EnvoyVariable)
	if path == "" {
		path = filepath.Join(ModuleRoot(tb), ".cache", "envoy", EnvoyVersion, "envoy")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		tb.Fatalf("find envoy: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		tb.Fatalf("no envoy at %s: run make envoy, or let %s name an Envoy %s", path, EnvoyVariable, EnvoyVersion)
	}
	return path
}

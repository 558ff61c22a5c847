package e2e_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// SoakVariable is the environment variable that asks for the full counts.
const SoakVariable = "CHANCERY_SOAK"

// Count returns how often something is done: in CI, or in `make soak`.
func Count(ci, soak int) int {
	if os.Getenv(SoakVariable) != "" {
		return soak
	}
	return ci
}

// must ends the test on an error.
func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// binary is the program under test, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "chy-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // nothing of value is in it
	if binary = os.Getenv("CHANCERY_E2E_BINARY"); binary == "" {
		binary = filepath.Join(dir, "chancery")
		build := exec.Command("go", "build", "-o", binary, "github.com/chancery-dev/chancery/cmd/chancery")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the program under test:", err)
			return 1
		}
	}
	return m.Run()
}

package boltstore_test

import (
	"fmt"
	"os"

	"github.com/chancery-dev/chancery/ledger/boltstore"
)

// runChild is what this test binary does as a child process, on the path that
// is its last argument. It returns the exit code.
func runChild(what, path string) int {
	switch what {
	case "check":
		return boltstore.CheckMain(path, os.Stdout)
	}
	fmt.Fprintln(os.Stderr, "unknown child", what)
	return 2
}

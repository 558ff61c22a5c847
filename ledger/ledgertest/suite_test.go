package ledgertest_test

import (
	"testing"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
)

func TestMemory(t *testing.T) {
	ledgertest.TestStore(t, func(*testing.T) ledgertest.Store { return ledger.NewMemory(ledgertest.Public("hub")) })
}

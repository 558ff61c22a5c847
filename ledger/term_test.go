package ledger_test

import (
	"testing"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
)

// TestTermsFollowOneAnother: a term may leave numbers out, for a hub that knows
// of terms which its ledger lost, but it must name the claim before it.
func TestTermsFollowOneAnother(t *testing.T) {
	m := ledger.NewMemory(ledgertest.Public("hub"))
	stream := ledgertest.Stream{Incarnation: "one"}
	outcome := func(in ledger.Incoming) ledger.Outcome {
		t.Helper()
		results, err := m.Append(t.Context(), stream.Next(in))
		if err != nil {
			t.Fatal(err)
		}
		return results[0].Outcome
	}
	a := ledgertest.NewHub()
	if got := outcome(a.StreamBegun("one", 0, ledger.DigestOf(nil))); got != ledger.Append {
		t.Fatalf("stream-begin: %s", got)
	}
	if got := outcome(a.TermBegun()); got != ledger.Append {
		t.Fatalf("term 1: %s", got)
	}
	stranger := ledgertest.NewHub()
	stranger.Instance, stranger.Term = "hub-b", 8 // does not know of term 1
	if got := outcome(stranger.TermBegun()); got != ledger.Skip {
		t.Errorf("a term that does not follow the recorded one: %s", got)
	}
	a.Term = 6
	if got := outcome(a.TermBegun()); got != ledger.Append || m.Admission().Term().Epoch != 7 {
		t.Errorf("term 7 after term 1: %s, term is %d", got, m.Admission().Term().Epoch)
	}
	if got := outcome(a.SiteAdded("east")); got != ledger.Append {
		t.Errorf("a decision of term 7: %s", got)
	}
}

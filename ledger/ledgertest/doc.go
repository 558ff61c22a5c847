// Package ledgertest has what tests of ledgers share: authors that sign events
// as a hub and as collectors do, and TestStore, the suite that every store
// passes.
package ledgertest

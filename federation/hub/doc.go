// Package hub is the shell around the pure parts of the control plane: it
// follows the ledger, keeps projection and compiler up to date, has candidates
// tasted, and records what federation.Next decides.
//
// One goroutine owns all state; others look at it through Inspect. A hub
// decides only in a term that it claimed in the ledger. After an unknown
// outcome of a publish it publishes the same records again; admission drops
// the second copy. Storing records, carrying them, and serving Envoys are left
// to the ledger's and xds' packages.
package hub

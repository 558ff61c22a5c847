// Package federation decides which fleet serves which snapshot: terms,
// candidates, tastes, heads, verdicts and holds.
//
// Every decision is an event of the ledger, and State is the fold of them, so
// that a replay shows each decision again. Next is a pure step: given the fold
// and what the shell has learned since (a compile, a taste, what edges
// answered, the time), it returns the decisions to record. Recording them,
// compiling and tasting are left to federation/hub; endpoints and certificates
// to federation/live; identities to federation/pki.
package federation

// Package shelf keeps snapshots on disk by their fingerprint, so that an old
// one can be served again without compiling it.
//
// It promises that a snapshot whose Put returned is there after a crash, that
// what it returns is what its fingerprint says (every manifest and chunk is
// checked when it is read), and that chunks which snapshots share are stored
// once. Everything in it can be compiled again from the ledger: a damaged file
// is therefore set aside and a new one begun, and a damaged chunk is forgotten
// until it is put again. Which snapshots are worth keeping, and where they come
// from, is left to the caller.
//
// The file is a bbolt database of its own, described in docs/format/shelf.md.
package shelf

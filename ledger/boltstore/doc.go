// Package boltstore keeps a ledger in one bbolt file.
//
// It promises that a batch is appended whole or not at all, with its Merkle
// hashes, its indexes and the place in the stream that it came from in one
// transaction; that what Append has returned survives a kill or a power cut;
// that a damaged file is found by Open or Verify and refused with the remedy;
// and that a full disk leaves the store usable. There is one writer; readers
// never see a part of a batch. Which records are appended is decided by package
// ledger. docs/format/ledger.md draws the file.
package boltstore

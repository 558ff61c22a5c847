package boltstore

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/chancery-dev/chancery/ledger"
)

// What callers decide on.
var (
	// ErrInUse: another process holds the file.
	ErrInUse = errors.New("ledger file is in use")
	// ErrCorrupt: the file is damaged. It is of no use; the ledger is rebuilt from
	// the stream or from another replica.
	ErrCorrupt = errors.New("ledger file is damaged")
	// ErrNewerFormat: a newer chancery wrote the file.
	ErrNewerFormat = errors.New("ledger file has a newer format")
	// ErrOtherInstall: the file is the ledger of another install.
	ErrOtherInstall = errors.New("ledger file of another install")
	// ErrNoSpace: the disk is full. Nothing was appended; the store stays usable,
	// and the same append succeeds once there is room.
	ErrNoSpace = errors.New("no space for the ledger")
	// ErrFailed: a write to disk failed in a way that leaves unknown what is on
	// it. The store takes no more writes until it is opened again.
	ErrFailed = errors.New("ledger file cannot be written")
	// ErrRange: the position asked for is not in the ledger.
	ErrRange = errors.New("not in the ledger")
	// ErrImport: what was to be imported is not the ledger that it should be.
	// Nothing of it is kept.
	ErrImport = errors.New("ledger import refused")
)

// DamageError says where a ledger file is damaged. It is an ErrCorrupt.
type DamageError struct {
	Path string
	Seq  ledger.Seq // first bad position, 0 when it is not about one
	What string
}

// Error says what is damaged and what to do.
func (e *DamageError) Error() string {
	where := ""
	if e.Seq > 0 {
		where = fmt.Sprintf(" at %d", e.Seq)
	}
	return fmt.Sprintf("ledger file %s is damaged%s: %s; stop chancery, move the file away (mv %s %s.damaged) and start again: the ledger is rebuilt from the stream or from another replica",
		e.Path, where, e.What, e.Path, e.Path)
}

// Is makes a DamageError an ErrCorrupt.
func (e *DamageError) Is(target error) bool { return target == ErrCorrupt }

func damaged(path string, seq ledger.Seq, format string, args ...any) error {
	return &DamageError{Path: path, Seq: seq, What: fmt.Sprintf(format, args...)}
}

// noSpace reports whether a write failed for want of room. bbolt wraps some of
// these errors by their text only.
func noSpace(err error) bool {
	for _, errno := range [...]syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error()) {
			return true
		}
	}
	return false
}

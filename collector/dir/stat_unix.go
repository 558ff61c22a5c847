//go:build linux || darwin

package dir

import (
	"io/fs"
	"os/user"
	"strconv"
	"syscall"
)

// stamp tells two versions of a file apart without reading them.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // nanoseconds
}

func stampOf(info fs.FileInfo) stamp {
	st := stamp{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		st.dev, st.ino, st.ctime = uint64(sys.Dev), sys.Ino, changeTime(sys) //nolint:unconvert // Dev is signed on some systems
	}
	return st
}

// placed reports whether the file's inode was changed after its content was, as by a rename: the content is whole.
func (s stamp) placed() bool { return s.ctime > s.mtime }

// owners remembers the names of users by their numbers.
type owners map[uint32]string

// of returns the name of the file's owner, "" if unknown.
func (o owners) of(info fs.FileInfo) string {
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	name, ok := o[sys.Uid]
	if !ok {
		if u, err := user.LookupId(strconv.FormatUint(uint64(sys.Uid), 10)); err == nil {
			name = u.Username
		}
		o[sys.Uid] = name
	}
	return name
}

package emissary

import "strings"

// GlobsOverlap reports whether two host globs may mean a common host, as
// Emissary judges it (hostglob_matches). A "*" stands at the start or at the
// end and for at least one character.
func GlobsOverlap(a, b string) bool {
	switch {
	case a == b:
		return true
	case a == "*" || b == "*":
		return true
	case a == "" || b == "":
		return false
	case a[0] == '.' || b[0] == '.':
		return false
	}
	aStart, aEnd := a[0] == '*', a[len(a)-1] == '*'
	bStart, bEnd := b[0] == '*', b[len(b)-1] == '*'
	switch {
	case aStart && aEnd || bStart && bEnd:
		return false
	case aStart && bEnd || aEnd && bStart:
		return true
	case aStart && bStart:
		return strings.HasSuffix(a[1:], b[1:]) || strings.HasSuffix(b[1:], a[1:])
	case aEnd && bEnd:
		a, b = a[:len(a)-1], b[:len(b)-1]
		return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
	case aStart:
		return len(b) > len(a)-1 && strings.HasSuffix(b, a[1:])
	case bStart:
		return len(a) > len(b)-1 && strings.HasSuffix(a, b[1:])
	case aEnd:
		return len(b) > len(a)-1 && strings.HasPrefix(b, a[:len(a)-1])
	case bEnd:
		return len(a) > len(b)-1 && strings.HasPrefix(a, b[:len(b)-1])
	}
	return false
}

// IsGlob reports whether a host name has a "*" that GlobsOverlap understands.
func IsGlob(s string) bool { return strings.HasPrefix(s, "*") || strings.HasSuffix(s, "*") }

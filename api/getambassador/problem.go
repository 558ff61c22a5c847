package getambassador

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that [Decode] and [DecodeValue] wrap.
var (
	// ErrNotOurs says that the object's API group or kind is not one of this
	// package, or that it has no such version.
	ErrNotOurs = errors.New("not a getambassador.io resource")
	// ErrMalformed says that the bytes are not one JSON object.
	ErrMalformed = errors.New("not a JSON object")
	// ErrInvalid says that the object breaks its schema; the problems returned
	// beside it say where.
	ErrInvalid = errors.New("invalid object")
)

// Severity says what a [FieldProblem] does to its object.
type Severity int

const (
	// Warning leaves the object valid; the field has no effect or was read
	// leniently.
	Warning Severity = iota
	// Error makes the object invalid.
	Error
)

// String returns "warning" or "error".
func (s Severity) String() string {
	if s == Error {
		return "error"
	}
	return "warning"
}

// FieldProblem is one thing that a decoder has to say about one field.
type FieldProblem struct {
	// Path is the field as the object's own version names it, such as
	// spec.labels[ambassador][0], or empty for the whole object.
	Path string
	// Message says what is wrong, and holds at most a short part of the value.
	Message  string
	Severity Severity
}

// String returns "path: message".
func (p FieldProblem) String() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

// maxProblems bounds what is reported about one object. Past it one more
// problem counts the rest.
const maxProblems = 50

// maxShown bounds, in bytes, how much of a value or key a message repeats.
const maxShown = 64

// invalid returns an error that names the object and its first error, or nil
// if there is none.
func invalid(what string, problems []FieldProblem) error {
	var first string
	n := 0
	for _, p := range problems {
		if p.Severity == Error {
			if n == 0 {
				first = p.String()
			}
			n++
		}
	}
	switch n {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%s: %w: %s", what, ErrInvalid, first)
	}
	return fmt.Errorf("%s: %w: %s (and %d more)", what, ErrInvalid, first, n-1)
}

// shorten cuts text to maxShown bytes at a character's boundary.
func shorten(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "…"
}

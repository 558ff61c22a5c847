package taste

import (
	"errors"
	"slices"
)

// MaxCulprits bounds what Bisect looks for.
const MaxCulprits = 16

// ErrUnresolved says that something is still bad without the culprits that
// were found: there are more than MaxCulprits, or what is bad does not depend
// on what is included.
var ErrUnresolved = errors.New("still refused without the culprits found so far")

// Bisect returns those of n things without which the others are good. bad
// judges a set, given in rising order. It finds the first thing whose addition
// to those before makes them bad, leaves it out, and goes on with the rest;
// each takes at most 1 + log₂(n) + 1 judgements, so there are at most
// (MaxCulprits + 1) × (log₂(n) + 2). Where two things are bad only together,
// the later one is named.
//
// If nothing is bad even though the caller thought so, it returns none. An
// error of bad ends the search; the culprits found until then are returned
// with it.
func Bisect(n int, bad func(included []int) (bool, error)) ([]int, error) {
	rest := make([]int, n)
	for i := range rest {
		rest[i] = i
	}
	var culprits []int
	for {
		b, err := bad(rest)
		if err != nil || !b {
			slices.Sort(culprits)
			return culprits, err
		}
		if len(rest) == 0 || len(culprits) == MaxCulprits {
			slices.Sort(culprits)
			return culprits, ErrUnresolved
		}
		// The first good things are good, the first evil ones are bad.
		good, evil := 0, len(rest)
		for evil-good > 1 {
			mid := good + (evil-good)/2
			b, err := bad(rest[:mid])
			if err != nil {
				slices.Sort(culprits)
				return culprits, err
			}
			if b {
				evil = mid
			} else {
				good = mid
			}
		}
		culprits = append(culprits, rest[evil-1])
		rest = slices.Delete(slices.Clone(rest), evil-1, evil)
	}
}

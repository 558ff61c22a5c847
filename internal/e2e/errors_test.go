package e2e_test

import (
	"errors"
	"fmt"
)

// What is not yet so while a test waits.
var (
	errNotGood   = errors.New("the served revision does not count as good yet")
	errNoFinding = errors.New("nothing is said of it")
)

// noErrors says what the status finds wrong.
func (s *System) noErrors() error {
	st, err := s.Status()
	if err != nil {
		return err
	}
	for _, site := range st.Sites {
		if len(site.Findings) > 0 {
			return fmt.Errorf("%s: %+v", site.Cluster, site.Findings)
		}
	}
	if st.Errors > 0 || !st.InSync {
		return fmt.Errorf("%d errors; %s", st.Errors, st.Sentence)
	}
	return nil
}

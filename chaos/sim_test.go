package chaos_test

import (
	"testing"
	"time"

	"github.com/chancery-dev/chancery/chaos"
)

func TestTry(t *testing.T) {
	for seed := range uint64(100) {
		started := time.Now()
		r, err := chaos.Run(chaos.Options{Seed: seed, Steps: 10000})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d %s %+v %s %s", seed, r.Plan, r.Stats, r.Digest, time.Since(started))
		if r.Violation != nil {
			for _, l := range r.Trace {
				t.Log(l)
			}
			t.Errorf("%+v", *r.Violation)
		}
	}
}

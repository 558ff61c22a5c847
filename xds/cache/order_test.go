package cache_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/xds/cache"
)

// TestOrder runs the scenarios in testdata/order. "lanes" sets the facts, a
// line for each type: what is not said is false. "next" prints the step, and
// takes it: what is sent is no longer behind, or lingering, nor ready. "ack"
// makes lanes ready again.
func TestOrder(t *testing.T) {
	datadriven.Walk(t, "testdata/order", func(t *testing.T, path string) {
		var f cache.Facts
		lane := func(t *testing.T, name string) *cache.Lane {
			for _, typ := range projector.ResourceTypes {
				if typ.String() == name {
					return &f.Lanes[typ]
				}
			}
			t.Fatalf("no type %q", name)
			return nil
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "lanes":
				for line := range strings.Lines(d.Input) {
					words := strings.Fields(line)
					l := lane(t, words[0])
					*l = cache.Lane{Open: true, Ready: true}
					for _, w := range words[1:] {
						switch w {
						case "behind":
							l.Behind = true
						case "lingering":
							l.Lingering = true
						case "unanswered":
							l.Ready = false
						case "closed":
							*l = cache.Lane{}
						default:
							t.Fatalf("no fact %q", w)
						}
					}
				}
				return ""
			case "ack":
				for _, a := range d.CmdArgs {
					lane(t, a.Key).Ready = true
				}
				return ""
			case "waited":
				f.WaitedEnough = true
				return ""
			case "next":
				step := cache.Next(f)
				var b strings.Builder
				for _, s := range step.Send {
					l := &f.Lanes[s.Type]
					l.Ready = false
					if s.Removals {
						fmt.Fprintf(&b, "remove %s\n", s.Type)
						l.Lingering = false
					} else {
						fmt.Fprintf(&b, "send %s\n", s.Type)
						l.Behind = false
					}
				}
				if step.Settled {
					b.WriteString("settled\n")
				}
				if b.Len() == 0 {
					return "wait\n"
				}
				return b.String()
			}
			t.Fatalf("no command %q", d.Cmd)
			return ""
		})
	})
}

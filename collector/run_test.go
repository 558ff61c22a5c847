package collector_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/collector/collectortest"
	"github.com/chancery-dev/chancery/collector/outbox"
)

// TestEachWriteFailsTwice: each write of the outbox fails without having happened, and after it has; each time the
// collector goes on by itself, and each time it is killed there and another goes on.
func TestEachWriteFailsTwice(t *testing.T) {
	for _, fault := range []collectortest.WriteFault{collectortest.WriteFails, collectortest.WriteUntold} {
		for _, kill := range []bool{false, true} {
			for at := range 6 {
				t.Run(fmt.Sprintf("fault %d at write %d, killed %v", fault, at, kill), func(t *testing.T) {
					box, err := outbox.Open(filepath.Join(t.TempDir(), "outbox.db"), collectortest.Cluster, outbox.Options{})
					if err != nil {
						t.Fatal(err)
					}
					defer func() {
						if err := box.Close(); err != nil {
							t.Error(err)
						}
					}()
					site := newMemorySite()
					rig := collectortest.NewRig(t, func() collector.Site { return run{site} })
					defer rig.Stop()
					rig.Outbox = collectortest.NewOutbox(box, 0)
					failed := make(chan struct{}, 1)
					rig.Outbox.SetFault(func(n int) collectortest.WriteFault {
						if n != at {
							return collectortest.WriteWorks
						}
						failed <- struct{}{}
						return fault
					})
					site.edit(func() { site.objects["a"], site.objects["b"], site.objects["c"] = "/1", "/1", "/1" })
					rig.Start()
					for n := range 8 { // until there were writes enough
						site.edit(func() { site.objects["a"] = fmt.Sprintf("/%d", n) })
						want := map[string]string{"a": fmt.Sprintf("/%d", n), "b": "/1", "c": "/1"}
						if kill && len(failed) > 0 {
							<-failed
							rig.Restart()
						}
						rig.Wait(collectortest.All(collectortest.Mappings(want), collectortest.Syncs(1)))
					}
				})
			}
		}
	}
}

// TestOutboxLimit: a collector whose hub is silent stops at the limit, and goes on when it is heard again.
func TestOutboxLimit(t *testing.T) {
	box, err := outbox.Open(filepath.Join(t.TempDir(), "outbox.db"), collectortest.Cluster, outbox.Options{MaxBytes: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	}()
	site := newMemorySite()
	rig := collectortest.NewRig(t, func() collector.Site { return run{site} })
	defer rig.Stop()
	rig.Outbox = collectortest.NewOutbox(box, 0)
	rig.Start()
	rig.Wait(collectortest.Syncs(1))
	rig.Hub.SetMute(true)
	prefix := ""
	for n := 0; ; n++ {
		prefix = fmt.Sprintf("/%d", n)
		site.edit(func() { site.objects["a"] = prefix })
		if used, limit := rig.Outbox.Size(); used >= limit {
			break
		}
		rig.Wait(func(f *collectortest.Fold) error {
			if used, limit := rig.Outbox.Size(); used >= limit {
				return nil
			}
			return collectortest.Mappings(map[string]string{"a": prefix})(f)
		})
	}
	for n := range 50 {
		prefix = fmt.Sprintf("/more%d", n)
		site.edit(func() { site.objects["a"] = prefix })
	}
	if used, limit := rig.Outbox.Size(); used > limit+2000 {
		t.Errorf("%d bytes in an outbox of %d", used, limit)
	}
	rig.Hub.SetMute(false)
	rig.Wait(collectortest.Mappings(map[string]string{"a": prefix}))
}

func TestConfig(t *testing.T) {
	good := collector.Config{
		Cluster: collectortest.Cluster, Key: collectortest.Key(), Instance: "i",
		Site: run{newMemorySite()}, Outbox: collectortest.NewOutbox(nil, 1), Stream: &collectortest.Hub{},
	}
	for want, edit := range map[string]func(*collector.Config){
		"cluster name": func(c *collector.Config) { c.Cluster = "No" },
		"Key has":      func(c *collector.Config) { c.Key = nil },
		"Instance":     func(c *collector.Config) { c.Instance = "a/b" },
		"Site":         func(c *collector.Config) { c.Site = nil },
	} {
		c := good
		edit(&c)
		if err := collector.Run(context.Background(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

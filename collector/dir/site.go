package dir

import (
	"context"
	"os"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/ledger"
)

// Site is a directory as a collector's site.
type Site struct {
	root   string
	normal collector.Normaliser
	timing Timing
}

// NewSite returns the site of a directory.
func NewSite(root string, n collector.Normaliser, t Timing) *Site {
	return &Site{root: root, normal: n, timing: t}
}

// Run watches the directory until ctx ends: see collector.Site.
func (s *Site) Run(ctx context.Context, emit func(collector.Update)) error {
	return watch(ctx, s.root, s.timing, s.accept, func(c Change) {
		u := collector.Update{Full: c.Full, Report: c.Report}
		for _, o := range c.Put {
			u.Put = append(u.Put, o.normal)
		}
		for _, id := range c.Gone {
			u.Delete = append(u.Delete, ledger.ObjectKey{
				Cluster: s.normal.Cluster, Group: id.Group, Kind: id.Kind, Namespace: id.Namespace, Name: id.Name,
			})
		}
		emit(u)
	})
}

// accept normalises an object where it is parsed, so that one that cannot be is a finding about its document.
func (s *Site) accept(o *Object) (wanted bool, err error) {
	o.normal, err = s.normal.Normalise(o.Raw, o.Where, o.Owner)
	return o.normal != nil, err
}

func unwatched(why string) ledger.SiteFinding {
	return ledger.SiteFinding{Where: ".", Message: "some directories are not watched (" + why + "), so that changes are seen only every half minute; raise fs.inotify.max_user_watches"}
}

// placed reports whether the file at the path was put there whole.
func (w *watcher) placed(full string) bool {
	info, err := os.Stat(full)
	return err == nil && stampOf(info).placed()
}

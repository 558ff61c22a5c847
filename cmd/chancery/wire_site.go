package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/collector/dir"
	"github.com/chancery-dev/chancery/collector/outbox"
	"github.com/chancery-dev/chancery/collector/stream"
	"github.com/chancery-dev/chancery/federation/live"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/natsstream"
)

func (in *install) siteDir(c ledger.ClusterName) string {
	return filepath.Join(in.cfg.Data, "collectors", string(c))
}

// collectorKey returns the key that the collector of a cluster signs with.
func (in *install) collectorKey(c ledger.ClusterName) (ed25519.PrivateKey, error) {
	return pki.SigningKey(filepath.Join(in.siteDir(c), "signing.key"))
}

// startSites starts a collector for each site.
func (in *install) startSites(ctx context.Context, g *errgroup.Group) error {
	if err := in.sitesKnown(ctx); err != nil {
		return err
	}
	metrics := collector.NewMetrics(in.registry)
	for _, s := range in.cfg.Sites {
		if err := in.startSite(ctx, g, s, metrics); err != nil {
			return fmt.Errorf("site %s: %w", s.Cluster, err)
		}
	}
	return nil
}

// sitesKnown waits until the ledger admits every site.
func (in *install) sitesKnown(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		updated := in.store.Updated()
		admission := in.store.Admission()
		if !slices.ContainsFunc(in.cfg.Sites, func(s site) bool { return admission.Key(s.Cluster) == nil }) {
			return nil
		}
		select {
		case <-updated:
		case <-limited.Done():
			if ctx.Err() != nil {
				return nil
			}
			return errors.New("the sites are not recorded after a minute: the stream does not take decisions; see the warnings above")
		}
	}
}

func (in *install) startSite(ctx context.Context, g *errgroup.Group, s site, metrics *collector.Metrics) error {
	key, err := in.collectorKey(s.Cluster)
	if err != nil {
		return err
	}
	digestKey, err := collector.SecretDigestKey(key, s.Cluster)
	if err != nil {
		return err
	}
	box, err := outbox.Open(filepath.Join(in.siteDir(s.Cluster), "outbox.db"), s.Cluster, outbox.Options{})
	if err != nil {
		return err
	}
	conn, err := natsstream.Connect(natsstream.ConnectOptions{Name: "collector-" + string(s.Cluster), Server: in.nats, Logger: in.log})
	if err != nil {
		return err
	}
	control := make(chan collector.Control, 64)
	stop, err := stream.Subscribe(conn, s.Cluster, control)
	if err != nil {
		return err
	}
	g.Go(func() error {
		err := collector.Run(ctx, collector.Config{
			Cluster: s.Cluster, Key: key, Instance: in.instance,
			Site:   dir.NewSite(s.Path, collector.Normaliser{Cluster: s.Cluster, DigestKey: digestKey}, dir.Timing{}),
			Outbox: box, Stream: stream.New(conn, natsstream.NewPublisher(conn, 0)), Control: control,
			Logger: in.log.With(slog.String("cluster", string(s.Cluster))), Metrics: metrics,
		})
		if stopErr := stop(); err == nil && ctx.Err() == nil {
			err = stopErr
		}
		conn.Close()
		if closeErr := box.Close(); err == nil {
			err = closeErr
		}
		return err
	})
	return nil
}

// dirSource is a directory as a source of the live plane.
type dirSource struct{ path string }

// liveKinds are the kinds that the live plane reads.
var liveKinds = map[string]bool{"Service": true, "EndpointSlice": true, "Endpoints": true, "Secret": true}

// Watch delivers the directory's live objects at first and after each change.
func (d dirSource) Watch(ctx context.Context, deliver func(live.View)) error {
	objects := map[dir.ID]live.Object{}
	stale := false
	return dir.Watch(ctx, d.path, dir.Timing{}, func(c dir.Change) {
		touched := c.Full
		for _, id := range c.Gone {
			if _, ok := objects[id]; ok {
				delete(objects, id)
				touched = true
			}
		}
		for _, o := range c.Put {
			if !liveKinds[o.ID.Kind] {
				continue
			}
			raw, err := json.Marshal(o.Raw)
			if err != nil {
				continue // it was decoded from JSON
			}
			objects[o.ID] = live.NewObject(o.ID.Kind, o.ID.Namespace, o.ID.Name, raw)
			touched = true
		}
		if c.Report != nil {
			stale = len(c.Report.Unknown) > 0
			touched = true
		}
		if !touched {
			return
		}
		view := live.View{Stale: stale, Objects: make([]live.Object, 0, len(objects))}
		for _, o := range objects {
			view.Objects = append(view.Objects, o)
		}
		deliver(view)
	})
}

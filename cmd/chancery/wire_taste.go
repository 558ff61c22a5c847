package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/xds/taste"
)

// tasterParts lets the hub ask a resident Envoy.
type tasterParts struct {
	*taste.Taster
	version string
}

// Version names the Envoy.
func (t *tasterParts) Version() string { return t.version }

// startTaster starts the Envoy that tastes candidates.
func (in *install) startTaster(ctx context.Context, g *errgroup.Group) (*tasterParts, error) {
	t, err := taste.New(taste.Options{Binary: in.cfg.Envoy, Dir: filepath.Join(in.cfg.Data, "taste"), Log: in.log})
	if err != nil {
		return nil, err
	}
	version, err := envoyVersion(ctx, in.cfg.Envoy)
	if err != nil {
		return nil, err
	}
	g.Go(func() error { return t.Run(ctx) })
	return &tasterParts{t, version}, nil
}

// Taste asks the Envoy; nil says that it takes the snapshot.
func (t *tasterParts) Taste(ctx context.Context, s *projector.Snapshot) (*hub.Refusal, error) {
	r, err := t.Taster.Taste(ctx, s)
	if err != nil || r.OK {
		return nil, err
	}
	return &hub.Refusal{Type: r.Type, Resources: r.Resources, Message: r.Message}, nil
}

// envoyVersion asks the binary what it is: "1.40.0".
func envoyVersion(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	// "<path>  version: <commit>/<version>/<state>/<build>/<tls library>"
	if _, version, ok := strings.Cut(string(out), "version: "); ok {
		if parts := strings.Split(version, "/"); len(parts) > 1 {
			return parts[1], nil
		}
	}
	return "", fmt.Errorf("%s does not say its version; is it an Envoy?", binary)
}

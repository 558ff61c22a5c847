package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/ledger/boltstore"
)

// verifyAtStart bounds how long a start waits until the whole ledger is
// verified. What takes longer is verified while serve runs.
const verifyAtStart = 3 * time.Second

// verifyFirst verifies the ledger before anything is made of it. done is false
// when there was not time enough.
func verifyFirst(ctx context.Context, store *boltstore.Store) (done bool, err error) {
	limited, cancel := context.WithTimeout(ctx, verifyAtStart)
	defer cancel()
	err = store.Verify(limited, 1, nil)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return false, nil
	}
	return err == nil, err
}

// verifyBehind verifies the ledger while it is in use; damage ends serve with
// the remedy, and the Envoys go on.
func (in *install) verifyBehind(ctx context.Context, g *errgroup.Group) {
	if in.verified {
		return
	}
	g.Go(func() error {
		begin := time.Now()
		if err := in.store.Verify(ctx, 1, nil); err != nil {
			return ended(ctx, err)
		}
		in.log.InfoContext(ctx, "ledger verified", slog.Duration("took", time.Since(begin)))
		return nil
	})
}

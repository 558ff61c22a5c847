package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/console/show"
	"github.com/chancery-dev/chancery/ledger/boltstore"
)

// damaged turns the error of a damaged ledger into the outcome of verifying it.
func damaged(err error) (console.Verified, error) {
	var d *boltstore.DamageError
	if !errors.As(err, &d) {
		return console.Verified{}, err
	}
	return console.Verified{BadSeq: uint64(d.Seq), Message: d.Error()}, nil
}

// rollbackCommand serves an older revision.
func rollbackCommand() *cobra.Command {
	var pin, yes, dryRun bool
	var to, reason string
	cmd := &cobra.Command{
		Use: "rollback --pin [--to rN]", Short: "Serve an older revision until the hold is released",
		Long: `Record a hold that pins the fleet to an older revision: the previous one that
was served and differs, or the one given by --to. Objects are never written, so
nothing fights the source. The hold ends with chancery hold release.

It shows a plan and asks on a terminal; scripts say --yes.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g, err := globalsOf(cmd)
			if err != nil {
				return err
			}
			if !pin {
				return usageError("this version rolls a whole fleet back, not single objects: say so with chancery rollback --pin")
			}
			var revision uint64
			if to != "" {
				if revision, err = parseRevision(to); err != nil {
					return err
				}
			}
			return g.ask(cmd.Context(), func(ctx context.Context, c *console.Client) error {
				plan, err := c.Plan(ctx, g.fleet, revision)
				if err != nil {
					return err
				}
				if dryRun {
					return show.Plan(cmd.OutOrStdout(), plan, g.show)
				}
				talk := g.show
				talk.Format = show.Tables
				if err := show.Plan(cmd.ErrOrStderr(), plan, talk); err != nil {
					return err
				}
				if !yes {
					// The time to read the plan is the operator's own.
					if err := agreed(cmd); err != nil {
						return err
					}
				}
				limited, cancel := context.WithTimeout(cmd.Context(), g.timeout)
				defer cancel()
				a, err := c.Pin(limited, console.PinCommand{Fleet: g.fleet, Revision: plan.To, Reason: reason})
				if err != nil {
					return err
				}
				if err := show.Answer(cmd.OutOrStdout(), a, g.show); err != nil {
					return err
				}
				err = awaitServed(limited, cmd, c, g, func(s console.Status) bool { return s.Head.Revision == plan.To })
				fmt.Fprintf(cmd.ErrOrStderr(), "next: chancery status -w, and in the end: chancery hold release %s\n", show.Clean(a.Hold))
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&pin, "pin", false, "pin the whole fleet to the older revision")
	f.StringVar(&to, "to", "", "revision rN; default: the previous one that was served and differs")
	f.StringVar(&reason, "reason", "", "why, for history")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.BoolVar(&dryRun, "dry-run", false, "only show the plan")
	return cmd
}

// agreed asks on a terminal whether to go on.
func agreed(cmd *cobra.Command) error {
	if !isTerminal(os.Stdin) {
		return usageError("there is no terminal to ask on: say --yes if the plan is right")
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Proceed? [y/N] ")
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil && answer == "" {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &exitError{code: exitFailure, err: errors.New("nothing was changed")}
}

// holdCommand manages holds.
func holdCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "hold", Short: "List, show and release holds"}
	var reason string
	release := &cobra.Command{
		Use: "release ID", Short: "End a hold: what is served follows the source again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := globalsOf(cmd)
			if err != nil {
				return err
			}
			return g.ask(cmd.Context(), func(ctx context.Context, c *console.Client) error {
				a, err := c.Release(ctx, args[0], console.ReleaseCommand{Fleet: g.fleet, Reason: reason})
				if err != nil {
					return err
				}
				if err := show.Answer(cmd.OutOrStdout(), a, g.show); err != nil {
					return err
				}
				released := time.Now()
				return awaitServed(ctx, cmd, c, g, func(s console.Status) bool {
					// No new head comes where the newest revision equals the one that was held, or was refused.
					return s.Head.Seq > a.Seq || s.Head.Revision == s.Newest || time.Since(released) > noHeadAfter
				})
			})
		},
	}
	release.Flags().StringVar(&reason, "reason", "", "why, for history")
	cmd.AddCommand(
		&cobra.Command{
			Use: "ls", Aliases: []string{"list"}, Short: "List the holds in force", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return holds(cmd, func(g globals, l console.List[console.Hold]) error { return show.Holds(cmd.OutOrStdout(), l, g.show) })
			},
		},
		&cobra.Command{
			Use: "show ID", Short: "Show one hold", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return holds(cmd, func(g globals, l console.List[console.Hold]) error {
					for _, h := range l.Items {
						if h.ID == args[0] {
							return show.Hold(cmd.OutOrStdout(), h, g.show)
						}
					}
					return fmt.Errorf("there is no hold %q in force; see chancery hold ls, and chancery history --type hold for those that ended", args[0])
				})
			},
		}, release)
	return cmd
}

// noHeadAfter is how long a release may take to lead to a new head.
const noHeadAfter = 3 * time.Second

// servedPoll is how often a command asks whether what it did is served.
const servedPoll = 20 * time.Millisecond

// awaitServed waits until every connected Envoy was proved to serve a head
// that is wanted. The decision is recorded whatever becomes of the wait.
func awaitServed(ctx context.Context, cmd *cobra.Command, c *console.Client, g globals, wanted func(console.Status) bool) error {
	started := time.Now()
	for {
		s, err := c.Status(ctx, g.fleet)
		switch {
		case err == nil && s.Envoys == 0:
			fmt.Fprintln(cmd.ErrOrStderr(), "no Envoy is connected: nothing to wait for")
			return nil
		case err == nil && s.Head != nil && wanted(s) && s.Served == s.Envoys:
			fmt.Fprintf(cmd.ErrOrStderr(), "served by %d of %d Envoys, r%d, after %s\n", s.Served, s.Envoys, s.Head.Revision, time.Since(started).Round(time.Millisecond))
			return nil
		case err != nil && ctx.Err() == nil:
			return err
		}
		select {
		case <-time.After(servedPoll):
		case <-ctx.Done():
			return &exitError{code: exitTimeout, err: fmt.Errorf("recorded, but not proved to be served by every Envoy within %s; see chancery status", g.timeout)}
		}
	}
}

func holds(cmd *cobra.Command, use func(globals, console.List[console.Hold]) error) error {
	g, err := globalsOf(cmd)
	if err != nil {
		return err
	}
	return g.ask(cmd.Context(), func(ctx context.Context, c *console.Client) error {
		return fetch(ctx, c, "/v1/holds", query("fleet", g.fleet), func(l console.List[console.Hold]) error { return use(g, l) })
	})
}

// confirmCommand lets withheld removals through.
func confirmCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "confirm [--cluster NAME]", Short: "Let a withheld removal through",
		Long: `Let through what is withheld because too much is gone at once: with --cluster
the objects that this cluster no longer lists, without it the shrunk snapshot of
the fleet. chancery status shows what is withheld.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g, err := globalsOf(cmd)
			if err != nil {
				return err
			}
			return g.ask(cmd.Context(), func(ctx context.Context, c *console.Client) error {
				a, err := c.Confirm(ctx, console.ConfirmCommand{Fleet: g.fleet, Cluster: g.cluster, Reason: reason})
				if err != nil {
					return err
				}
				return show.Answer(cmd.OutOrStdout(), a, g.show)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for history")
	return cmd
}

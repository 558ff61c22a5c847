package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/console/show"
)

// statusCommand says how an install is.
func statusCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "status", Short: "Are all edges serving what they should?",
		Long: `Say how the install is: one sentence, then sites, edges, holds and what is
withheld. The words are Serving, Applying, Behind, Rejected, Held and Offline.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g, err := globalsOf(cmd)
			if err != nil {
				return err
			}
			if watch {
				return watchStatus(cmd, g)
			}
			return g.ask(cmd.Context(), func(ctx context.Context, c *console.Client) error {
				s, err := c.Status(ctx, g.fleet)
				if err != nil {
					return err
				}
				return show.Status(cmd.OutOrStdout(), s, g.show)
			})
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on, until interrupted")
	return cmd
}

// refreshPeriod is how often a watched status is asked for.
const refreshPeriod = time.Second

// watchStatus shows the status again and again: on a terminal in place, else
// whenever more than ages has changed.
func watchStatus(cmd *cobra.Command, g globals) (err error) {
	client, done, err := g.connect()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	ctx, last := cmd.Context(), ""
	tick := time.NewTicker(refreshPeriod)
	defer tick.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, g.timeout)
		s, err := client.Status(limited, g.fleet)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if g.show.Format == show.JSON {
			err = show.Line(&out, "Status", s)
		} else {
			err = show.Status(&out, s, g.show)
		}
		if err != nil {
			return err
		}
		head := uint64(0)
		if s.Head != nil {
			head = s.Head.Generation
		}
		now := fmt.Sprint(s.State, s.Seq, s.Envoys, s.Served, head, s.Objects, s.Notes)
		for _, e := range s.Edges {
			now += fmt.Sprint(e.Name, e.State, e.Generation, e.Note)
		}
		switch {
		case g.show.Colour:
			out = *bytes.NewBuffer(append([]byte("\x1b[H\x1b[2J"), out.Bytes()...))
		case now == last:
			out.Reset()
		case last != "" && g.show.Format != show.JSON:
			out = *bytes.NewBuffer(append([]byte("\n"), out.Bytes()...))
		}
		last = now
		if _, err := cmd.OutOrStdout().Write(out.Bytes()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// getCommand lists things.
func getCommand() *cobra.Command {
	var state string
	var limit int
	cmd := &cobra.Command{
		Use: "get [KIND [NAME]]", Short: "List objects, revisions, edges, sites, holds, findings or resources",
		Long: `List objects, or those of a Kubernetes kind, with what became of them:

  chancery get                     all objects
  chancery get mappings -n shop    of a kind, in a namespace
  chancery get mapping web         one object, its report and its canonical form
  chancery get findings            what is to say about objects, errors first
  chancery get revisions [rN]      what was compiled, and what became of it
  chancery get resources [TYPE/NAME]   of the snapshot that is served
  chancery get edges | sites | holds`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := globalsOf(cmd)
			if err != nil {
				return err
			}
			return g.ask(cmd.Context(), func(ctx context.Context, c *console.Client) error {
				return get(ctx, cmd, g, c, args, state, limit)
			})
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only objects in this state: accepted, rejected, held, ignored or unknown")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many revisions, 1 to 1000")
	return cmd
}

func get(ctx context.Context, cmd *cobra.Command, g globals, c *console.Client, args []string, state string, limit int) error {
	kind, name := "objects", ""
	if len(args) > 0 {
		kind = args[0]
	}
	if len(args) == 2 {
		name = args[1]
	} else if k, n, ok := strings.Cut(kind, "/"); ok {
		kind, name = k, n
	}
	w, q := cmd.OutOrStdout(), query("fleet", g.fleet)
	// found refuses what was named and is not there: empty is an answer to a list only.
	found := func(n int, err error) error {
		if err == nil && n == 0 && name != "" {
			return fmt.Errorf("there is no %s %q; chancery get %s lists what there is", kind, args[len(args)-1], kind)
		}
		return err
	}
	switch kind {
	case "revisions", "revision", "rev":
		if name != "" {
			n, err := parseRevision(name)
			if err != nil {
				return err
			}
			var r console.Revision
			if err := c.Get(ctx, "/v1/revisions/"+strconv.FormatUint(n, 10), q, &r); err != nil {
				return err
			}
			return show.Revision(w, r, g.show)
		}
		q.Set("limit", strconv.Itoa(limit))
		return fetch(ctx, c, "/v1/revisions", q, func(l console.List[console.Revision]) error { return show.Revisions(w, l, g.show) })
	case "edges", "edge":
		return fetch(ctx, c, "/v1/edges", q, func(l console.List[console.Edge]) error {
			l.Items = named(l.Items, name, func(e console.Edge) string { return e.Name })
			return found(len(l.Items), show.Edges(w, l, g.show))
		})
	case "sites", "site", "clusters", "cluster":
		return fetch(ctx, c, "/v1/sites", q, func(l console.List[console.Site]) error {
			l.Items = named(l.Items, name, func(s console.Site) string { return s.Cluster })
			return found(len(l.Items), show.Sites(w, l, g.show))
		})
	case "holds", "hold":
		return fetch(ctx, c, "/v1/holds", q, func(l console.List[console.Hold]) error {
			l.Items = named(l.Items, name, func(h console.Hold) string { return h.ID })
			return found(len(l.Items), show.Holds(w, l, g.show))
		})
	case "resources", "resource":
		if t, n, ok := strings.Cut(name, "/"); ok {
			q.Set("type", t)
			name = n
		}
		if name != "" {
			q.Set("name", name)
		}
		return fetch(ctx, c, "/v1/resources", q, func(l console.List[console.Resource]) error {
			return found(len(l.Items), show.Resources(w, l, g.show))
		})
	}
	for k, v := range map[string]string{"cluster": g.cluster, "namespace": g.namespace, "name": name, "state": state} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if kind == "findings" || kind == "finding" {
		return fetch(ctx, c, "/v1/findings", q, func(l console.List[console.Finding]) error { return show.Findings(w, l, g.show) })
	}
	if kind != "objects" && kind != "object" && kind != "all" {
		q.Set("kind", kind)
	}
	return fetch(ctx, c, "/v1/objects", q, func(l console.List[console.Object]) error {
		if name == "" || len(l.Items) != 1 {
			return found(len(l.Items), show.Objects(w, l, g.show))
		}
		o := l.Items[0]
		ns := o.Namespace
		if ns == "" {
			ns = "_"
		}
		group := o.Kind
		if o.Group != "" {
			group += "." + o.Group
		}
		path := "/v1/objects"
		for _, part := range []string{o.Cluster, group, ns, o.Name} {
			path += "/" + url.PathEscape(part)
		}
		var one console.Object
		if err := c.Get(ctx, path, query("fleet", g.fleet), &one); err != nil {
			return err
		}
		return show.Object(w, one, g.show)
	})
}

// fetch asks for a list and hands it on.
func fetch[T any](ctx context.Context, c *console.Client, path string, q url.Values, use func(console.List[T]) error) error {
	var l console.List[T]
	if err := c.Get(ctx, path, q, &l); err != nil {
		return err
	}
	return use(l)
}

// named keeps the things with a name, all where it is empty.
func named[T any](all []T, name string, nameOf func(T) string) []T {
	out := []T{}
	for _, it := range all {
		if name == "" || nameOf(it) == name {
			out = append(out, it)
		}
	}
	return out
}

func query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// parseRevision reads rN or N.
func parseRevision(s string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "r"), 10, 64)
	if err != nil || n == 0 {
		return 0, usageError(fmt.Sprintf("revision %q: want rN, as chancery get revisions lists them", s))
	}
	return n, nil
}

// historyCommand lists what was recorded.
func historyCommand() *cobra.Command {
	var since, until, kind string
	var limit int
	var watch bool
	cmd := &cobra.Command{
		Use: "history [OBJECT]", Short: "Who changed what, when and why",
		Long: `List what the ledger recorded, newest first. OBJECT is [cluster:]kind/namespace/name,
kind/name or a name.

Who made a change stands with how that is known: (file) is the owner of a file,
(managed-fields) a tool, (operator) a certificate's name.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := globalsOf(cmd)
			if err != nil {
				return err
			}
			q := query("cluster", g.cluster, "type", kind)
			if len(args) == 1 {
				q.Set("object", args[0])
			}
			for _, p := range []struct{ flag, value string }{{"since", since}, {"until", until}} {
				if p.value == "" {
					continue
				}
				t, err := parseTime(p.value, time.Now())
				if err != nil {
					return usageError("--" + p.flag + " " + err.Error())
				}
				q.Set(p.flag, t.UTC().Format(time.RFC3339Nano))
			}
			if limit < 1 || limit > 1000 {
				return usageError(fmt.Sprintf("--limit %d: want 1 to 1000", limit))
			}
			q.Set("limit", strconv.Itoa(limit))
			if watch {
				return watchHistory(cmd, g, q)
			}
			return g.ask(cmd.Context(), func(ctx context.Context, c *console.Client) error {
				l, err := c.History(ctx, q)
				if err != nil {
					return err
				}
				if err := show.History(cmd.OutOrStdout(), l, g.show); err != nil {
					return err
				}
				if l.More {
					fmt.Fprintf(cmd.ErrOrStderr(), "There is more: raise --limit, or narrow with --since and --until.\n")
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "not older than this: a time (RFC 3339) or an age (90s, 2h, 7d)")
	f.StringVar(&until, "until", "", "not newer than this: a time or an age")
	f.StringVar(&kind, "type", "", "only events of this type: put, delete, head, hold, …")
	f.IntVar(&limit, "limit", 50, "at most so many events, 1 to 1000")
	f.BoolVarP(&watch, "watch", "w", false, "follow what is recorded, oldest first, until interrupted")
	return cmd
}

func watchHistory(cmd *cobra.Command, g globals, q url.Values) (err error) {
	client, done, err := g.connect()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	return client.FollowHistory(cmd.Context(), q, func(e console.Event) error { return show.EventLine(cmd.OutOrStdout(), e, g.show) })
}

// parseTime reads an RFC 3339 time, or an age before now.
func parseTime(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 100_000 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%q: want a time like 2026-11-25T08:00:00Z or an age like 90s, 2h or 7d", s)
}

// verifyCommand proves the ledger.
func verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Prove that the ledger is whole",
		Long: `Verify every signature, hash and index of the ledger: of a running install, or
with --offline --data DIR of a data directory that nobody holds.

Exit code 3: the ledger is damaged; the message says where and what to do.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g, err := globalsOf(cmd)
			if err != nil {
				return err
			}
			v, err := verify(cmd, g)
			if err != nil {
				return err
			}
			if err := show.Verified(cmd.OutOrStdout(), v, g.show); err != nil {
				return err
			}
			if !v.OK {
				return &exitError{code: exitFindings}
			}
			return nil
		},
	}
}

func verify(cmd *cobra.Command, g globals) (v console.Verified, err error) {
	progress := func(p console.Progress) {
		if isTerminal(os.Stderr) {
			fmt.Fprintf(cmd.ErrOrStderr(), "\r%d of %d events verified", p.Seq, p.Size)
			if p.Seq == p.Size {
				fmt.Fprintln(cmd.ErrOrStderr())
			}
		}
	}
	if !g.offline {
		client, _, err := g.connect() // nothing to end where there is a network
		if err != nil {
			return v, err
		}
		return client.Verify(cmd.Context(), progress)
	}
	// Without the fold: what cannot be folded can still be verified.
	data, err := g.needData("verify --offline")
	if err != nil {
		return v, err
	}
	s, err := openStored(data)
	if err != nil {
		return damaged(err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return console.Verify(cmd.Context(), s.store, func(p console.Progress) error { progress(p); return nil })
}

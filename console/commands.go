package console

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// PinCommand asks to serve an older revision until the hold is released.
type PinCommand struct {
	Fleet    string `json:"fleet,omitempty" maxLength:"63"`
	Revision uint64 `json:"revision,omitempty" doc:"0 or absent: the previous one that was served and differs"`
	Reason   string `json:"reason,omitempty" maxLength:"1000"`
}

// ReleaseCommand ends a hold.
type ReleaseCommand struct {
	Fleet  string `json:"fleet,omitempty" maxLength:"63"`
	Reason string `json:"reason,omitempty" maxLength:"1000"`
}

// ConfirmCommand lets withheld removals through.
type ConfirmCommand struct {
	Fleet   string `json:"fleet,omitempty" maxLength:"63"`
	Cluster string `json:"cluster,omitempty" maxLength:"63" doc:"absent: the shrunk snapshot of the fleet"`
	Reason  string `json:"reason,omitempty" maxLength:"1000"`
}

func (s *server) registerCommands(api huma.API) {
	command := func(id, path, summary string) huma.Operation {
		op := operation(id, http.MethodPost, path, summary)
		op.Errors = append(op.Errors, http.StatusConflict, http.StatusGatewayTimeout)
		return op
	}
	huma.Register(api, command("pin", "/v1/holds", "Pin the fleet to an older revision"),
		func(ctx context.Context, p *struct{ Body PinCommand }) (*body[Answer], error) {
			return s.do(ctx, p.Body.Fleet, hub.Request{Reason: p.Body.Reason, Pin: &hub.PinRequest{Revision: p.Body.Revision}})
		})
	huma.Register(api, command("release", "/v1/holds/{id}/release", "End a hold"),
		func(ctx context.Context, p *struct {
			ID   string `path:"id" maxLength:"63"`
			Body ReleaseCommand
		},
		) (*body[Answer], error) {
			return s.do(ctx, p.Body.Fleet, hub.Request{Reason: p.Body.Reason, Release: &hub.ReleaseRequest{ID: p.ID}})
		})
	huma.Register(api, command("confirm", "/v1/confirm", "Let withheld removals through"),
		func(ctx context.Context, p *struct{ Body ConfirmCommand }) (*body[Answer], error) {
			return s.do(ctx, p.Body.Fleet, hub.Request{Reason: p.Body.Reason, Confirm: &hub.ConfirmRequest{Cluster: ledger.ClusterName(p.Body.Cluster)}})
		})
	plan := operation("plan", http.MethodGet, "/v1/plan", "What a pin would change")
	plan.Errors = append(plan.Errors, http.StatusConflict)
	huma.Register(api, plan, func(ctx context.Context, p *struct {
		FleetParam
		To uint64 `query:"to" doc:"revision; 0 or absent: the previous one that was served and differs"`
	},
	) (*body[Plan], error) {
		return s.plan(ctx, p.Fleet, p.To)
	})
}

func (s *server) do(ctx context.Context, fleet string, r hub.Request) (*body[Answer], error) {
	if err := s.inspect(ctx, fleet, func(hub.Inside) {}); err != nil {
		return nil, err // another fleet
	}
	who := peer(ctx)
	r.Actor = ledger.Actor{Name: who.Name, Source: "operator"}
	ctx, cancel := context.WithTimeout(ctx, decideLimit)
	defer cancel()
	a, err := s.Hub.Do(ctx, r)
	if err != nil {
		return nil, refusal(err)
	}
	s.Logger.InfoContext(ctx, "operator's command", slog.String("by", who.Name), slog.Uint64("seq", uint64(a.Seq)), slog.String("what", a.Message))
	return &body[Answer]{Answer{Seq: uint64(a.Seq), Hold: a.Hold, Revision: a.Revision, From: a.From, Message: a.Message}}, nil
}

// maxPlanEvents bounds how many events a plan looks at.
const maxPlanEvents = 50_000

func (s *server) plan(ctx context.Context, fleet string, to uint64) (*body[Plan], error) {
	var out body[Plan]
	var from, target federation.Revision
	var refused string
	err := s.inspect(ctx, fleet, func(in hub.Inside) {
		f := in.Fleet
		r := f.PreviousGood()
		if to > 0 {
			r = f.Revision(to)
		}
		current := f.Revision(f.Head.Revision)
		switch {
		case f.HeadSeq == 0 || current == nil:
			refused = fmt.Sprintf("fleet %s serves nothing yet; see chancery status", f.Name)
		case r == nil && to > 0:
			refused = fmt.Sprintf("fleet %s has no revision r%d; see chancery get revisions", f.Name, to)
		case r == nil:
			refused = fmt.Sprintf("fleet %s has no earlier revision that was served and differs from r%d; see chancery get revisions", f.Name, f.Head.Revision)
		case !r.Served:
			refused = fmt.Sprintf("r%d of fleet %s was never served; choose one that was, see chancery get revisions", to, f.Name)
		default:
			from, target = *current, *r
		}
	})
	switch {
	case err != nil:
		return nil, err
	case refused != "":
		return nil, huma.Error409Conflict(refused)
	}
	out.Body = Plan{
		Fleet: string(target.Fleet), From: from.Revision, FromFingerprint: from.Fingerprint.String(),
		To: target.Revision, ToFingerprint: target.Fingerprint.String(), ToAt: target.At,
	}
	if out.Body.Changes, err = s.changesBetween(ctx, &out.Body, target.Seq, from.Seq); err != nil {
		return nil, s.ledgerProblem(ctx, err)
	}
	s.diff(&out.Body, from.Fingerprint, target.Fingerprint)
	return &out, nil
}

// changesBetween returns the newest change of each object between two prefixes
// of the ledger, in whichever order they come.
func (s *server) changesBetween(ctx context.Context, p *Plan, a, b ledger.Seq) ([]Change, error) {
	from, to := min(a, b)+1, max(a, b)
	if to >= from && to-from >= maxPlanEvents {
		p.Notes = append(p.Notes, fmt.Sprintf("only the newest %d events in between are looked at", maxPlanEvents))
		from = to - maxPlanEvents + 1
	}
	newest := map[ledger.ObjectKey]Change{}
	for from <= to {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		end := min(from+historyChunk-1, to)
		entries, err := s.read(from, end)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			e, err := ledger.DecodeEvent(entry.Record.Event)
			if err != nil {
				return nil, fmt.Errorf("event %d: %w", entry.Seq, err)
			}
			what := "put"
			switch e.Type {
			case ledger.ObjectPut, ledger.ObjectTooLarge:
			case ledger.ObjectDelete:
				what = "deleted"
			case ledger.SyncEnd, ledger.DecisionType(projector.ConfirmDecision):
				continue
			default:
				continue
			}
			newest[e.Object] = Change{Object: e.Object.String(), What: what, Seq: uint64(entry.Seq), At: e.Time, By: e.Actor.Name}
		}
		from = end + 1
	}
	out := []Change{}
	for _, c := range newest {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Object, b.Object) })
	return out, nil
}

// diff adds how the snapshots differ, where both are kept.
func (s *server) diff(p *Plan, from, to projector.Fingerprint) {
	var snapshots [2]*projector.Snapshot
	for i, fp := range []projector.Fingerprint{from, to} {
		var err error
		if snapshots[i], err = s.Shelf.Get(fp); err != nil {
			p.Notes = append(p.Notes, fmt.Sprintf("the resources cannot be compared: snapshot %s: %v; it is compiled again when it is pinned", fp.Short(), err))
			return
		}
	}
	diffs := map[projector.ResourceType]*ResourceDiff{}
	for _, u := range projector.Diff(snapshots[0], snapshots[1]) {
		d := diffs[u.Type]
		if d == nil {
			d = &ResourceDiff{Type: u.Type.String()}
			diffs[u.Type] = d
		}
		_, before := snapshots[0].Get(u.Type, u.Name)
		switch {
		case u.Resource == nil:
			d.Removed = append(d.Removed, u.Name)
		case before:
			d.Changed = append(d.Changed, u.Name)
		default:
			d.Added = append(d.Added, u.Name)
		}
	}
	for _, t := range projector.ResourceTypes {
		if d := diffs[t]; d != nil {
			p.Resources = append(p.Resources, *d)
		}
	}
}

// problemOf reads a problem's detail, "" if there is none.
func problemOf(b []byte) string {
	var m huma.ErrorModel
	if json.Unmarshal(b, &m) != nil {
		return ""
	}
	detail := m.Detail
	for _, e := range m.Errors {
		detail += "; " + e.Error()
	}
	return detail
}

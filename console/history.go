package console

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// The bounds on one look into the ledger.
const (
	historyChunk   = 500
	maxHistoryScan = 200_000 // events looked at for one answer
	heartbeat      = 15 * time.Second
)

// historyParams select events.
type historyParams struct {
	Object  string    `query:"object" maxLength:"1000" doc:"[cluster:]kind[.group][/namespace]/name, or a name"`
	Cluster string    `query:"cluster" maxLength:"63"`
	Type    string    `query:"type" maxLength:"63" doc:"put, delete, sync-begin, …, or a decision's name"`
	Since   time.Time `query:"since" doc:"RFC 3339"`
	Until   time.Time `query:"until" doc:"RFC 3339"`
	Limit   int       `query:"limit" minimum:"1" maximum:"1000" default:"50"`
	Watch   bool      `query:"watch" doc:"follow: a stream of server-sent events, oldest first"`
}

// objectMatch is a person's way to name objects; what is empty matches all.
type objectMatch struct{ cluster, kind, namespace, name string }

// parseMatch reads [cluster:]kind[.group][/namespace]/name, or a name.
func parseMatch(s string) (objectMatch, error) {
	var m objectMatch
	rest := s
	if c, r, ok := strings.Cut(s, ":"); ok {
		m.cluster, rest = c, r
	}
	parts := strings.Split(rest, "/")
	switch len(parts) {
	case 1:
		m.name = parts[0]
	case 2:
		m.kind, m.name = parts[0], parts[1]
	default:
		m.kind, m.namespace, m.name = parts[0], parts[1], strings.Join(parts[2:], "/")
	}
	if m.name == "" {
		return m, fmt.Errorf("object %q: want [cluster:]kind/namespace/name, kind/name or a name", s)
	}
	return m, nil
}

func (m objectMatch) match(k ledger.ObjectKey) bool {
	ns := k.Namespace
	if ns == "" && m.namespace == "_" {
		ns = "_"
	}
	return k.Name == m.name && (m.cluster == "" || m.cluster == string(k.Cluster)) &&
		(m.kind == "" || kindMatches(m.kind, k)) && (m.namespace == "" || m.namespace == ns)
}

// selector is historyParams ready for use.
type selector struct {
	historyParams
	object *objectMatch
}

func (p historyParams) selector() (selector, error) {
	s := selector{historyParams: p}
	if p.Object != "" {
		m, err := parseMatch(p.Object)
		if err != nil {
			return s, err
		}
		s.object = &m
	}
	return s, nil
}

func (s selector) match(e ledger.Event) bool {
	switch {
	case s.object != nil && (e.Object == ledger.ObjectKey{} || !s.object.match(e.Object)):
		return false
	case s.Cluster != "" && s.Cluster != string(e.ID.Cluster):
		return false
	case s.Type != "" && s.Type != typeWord(e.Type):
		return false
	case !s.Since.IsZero() && e.Time.Before(s.Since), !s.Until.IsZero() && e.Time.After(s.Until):
		return false
	}
	return true
}

func (s *server) registerHistory(api huma.API) {
	op := operation("history", http.MethodGet, "/v1/history", "What was recorded, newest first")
	schema := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[List[Event]](), true, "Events")
	event := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Event](), true, "Event")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "Events; with watch a stream in which the data of each message is one Event",
		Content:     map[string]*huma.MediaType{"application/json": {Schema: schema}, "text/event-stream": {Schema: event}},
	}}
	huma.Register(api, op, func(ctx context.Context, p *historyParams) (*huma.StreamResponse, error) {
		sel, err := p.selector()
		if err != nil {
			return nil, huma.Error422UnprocessableEntity(err.Error())
		}
		seq := s.Ledger.Size()
		list := List[Event]{Seq: uint64(seq), Now: s.Now()}
		if list.Items, list.More, err = s.backward(ctx, sel, seq); err != nil {
			return nil, s.ledgerProblem(ctx, err)
		}
		if p.Watch {
			return stream(func(ctx context.Context, send sender) error { return s.follow(ctx, sel, seq, list.Items, send) }), nil
		}
		return &huma.StreamResponse{Body: func(c huma.Context) {
			c.SetHeader("Content-Type", "application/json")
			_ = json.NewEncoder(c.BodyWriter()).Encode(list) // the client is gone
		}}, nil
	})
}

func (s *server) ledgerProblem(ctx context.Context, err error) error {
	s.Logger.ErrorContext(ctx, "the ledger cannot be read for the API", slog.Any("err", err))
	return huma.Error500InternalServerError(fmt.Sprintf("%v; run chancery verify", err))
}

// backward returns the newest events up to seq that match, newest first.
func (s *server) backward(ctx context.Context, sel selector, seq ledger.Seq) (out []Event, more bool, err error) {
	out = []Event{}
	for to, scanned := seq, 0; to > 0; {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		from := ledger.Seq(1)
		if to > historyChunk {
			from = to - historyChunk + 1
		}
		entries, err := s.read(from, to)
		if err != nil {
			return nil, false, err
		}
		for _, entry := range slices.Backward(entries) {
			e, err := ledger.DecodeEvent(entry.Record.Event)
			if err != nil {
				return nil, false, fmt.Errorf("event %d: %w", entry.Seq, err)
			}
			if !sel.match(e) {
				continue
			}
			if len(out) == sel.Limit {
				return out, true, nil
			}
			out = append(out, eventOf(entry.Seq, e))
		}
		if scanned += len(entries); scanned >= maxHistoryScan {
			return out, from > 1, nil
		}
		to = from - 1
	}
	return out, false, nil
}

// read returns the entries from..to; one read may end early when they are large.
func (s *server) read(from, to ledger.Seq) ([]ledger.Entry, error) {
	var out []ledger.Entry
	for from <= to {
		entries, err := s.Ledger.Read(from, int(to-from+1))
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			return nil, fmt.Errorf("event %d cannot be read", from)
		}
		out = append(out, entries...)
		from += ledger.Seq(len(entries))
	}
	return out, nil
}

// follow sends what is there, oldest first, and then what comes.
func (s *server) follow(ctx context.Context, sel selector, seq ledger.Seq, first []Event, send sender) error {
	for _, e := range slices.Backward(first) {
		if err := send("event", strconv.FormatUint(e.Seq, 10), e); err != nil {
			return err
		}
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		updated := s.Ledger.Updated()
		for size := s.Ledger.Size(); seq < size; {
			entries, err := s.Ledger.Read(seq+1, historyChunk)
			if err != nil {
				return err
			}
			if len(entries) == 0 {
				break
			}
			for _, entry := range entries {
				e, err := ledger.DecodeEvent(entry.Record.Event)
				if err != nil {
					return fmt.Errorf("event %d: %w", entry.Seq, err)
				}
				seq = entry.Seq
				if !sel.match(e) {
					continue
				}
				if err := send("event", strconv.FormatUint(uint64(seq), 10), eventOf(seq, e)); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-updated:
		case <-beat.C:
			if err := send("", "", nil); err != nil {
				return err
			}
		}
	}
}

// typeWord is the short name of an event's type.
func typeWord(t ledger.Type) string {
	if t.IsDecision() {
		return t.Decision()
	}
	switch t {
	case ledger.ObjectPut:
		return "put"
	case ledger.ObjectDelete:
		return "delete"
	case ledger.ObjectTooLarge:
		return "too-large"
	case ledger.SyncBegin:
		return "sync-begin"
	case ledger.SyncPage:
		return "sync-page"
	case ledger.SyncEnd:
		return "sync-end"
	case ledger.SiteFindings:
		return "findings"
	default:
		return string(t)
	}
}

func eventOf(seq ledger.Seq, e ledger.Event) Event {
	v := Event{
		Seq: uint64(seq), Time: e.Time, Cluster: string(e.ID.Cluster), Type: typeWord(e.Type), By: e.Actor.Name, BySource: e.Actor.Source, ID: e.ID.String(),
	}
	if e.Object != (ledger.ObjectKey{}) {
		v.Object, v.Digest = e.Object.String(), e.ObjectDigest.String()
	}
	if e.Type.IsDecision() {
		v.Scope = e.Subject[strings.LastIndexByte(e.Subject, '.')+1:]
		d, err := ledger.DecodeDecision(e.Data)
		if err != nil {
			v.Summary = "unreadable: " + err.Error()
			return v
		}
		v.Reason = d.Reason
		if v.Summary, err = decisionSummary(e.Type.Decision(), d.Body); err != nil {
			v.Summary = "unreadable: " + err.Error()
		}
		return v
	}
	v.Summary = siteSummary(e)
	return v
}

// siteSummary says in a few words what a collector told.
func siteSummary(e ledger.Event) string {
	switch e.Type {
	case ledger.ObjectPut:
		if e.PreviousDigest.IsZero() {
			return "new"
		}
		return "changed"
	case ledger.SyncBegin:
		return fmt.Sprintf("epoch %d begins", e.ID.Epoch)
	case ledger.SyncEnd:
		var d ledger.SyncEndData
		if json.Unmarshal(e.Data, &d) == nil {
			return fmt.Sprintf("%d objects", d.Count)
		}
	case ledger.SyncPage:
		var d ledger.SyncPageData
		if json.Unmarshal(e.Data, &d) == nil {
			return fmt.Sprintf("%d objects unchanged", len(d.Unchanged))
		}
	case ledger.SiteFindings:
		var d ledger.FindingsData
		if json.Unmarshal(e.Data, &d) == nil {
			if len(d.Findings) == 0 {
				return "all can be read"
			}
			return fmt.Sprintf("%d findings; %s: %s", len(d.Findings), d.Findings[0].Where, d.Findings[0].Message)
		}
	case ledger.ObjectTooLarge:
		var d ledger.TooLargeData
		if json.Unmarshal(e.Data, &d) == nil {
			return fmt.Sprintf("%d bytes, too large to record", d.Bytes)
		}
	default: // says it all by its type
	}
	return ""
}

// summary decodes a decision's body and says what it says.
func summary[T any](body json.RawMessage, say func(T) string) (string, error) {
	var b T
	if err := json.Unmarshal(body, &b); err != nil {
		return "", err
	}
	return say(b), nil
}

// decisionSummary says in a few words what was decided.
func decisionSummary(name string, b json.RawMessage) (string, error) {
	switch name {
	case "stream-begin":
		return summary(b, func(d ledger.StreamBegunData) string {
			return fmt.Sprintf("stream %s begins at %d", d.Incarnation, d.BaseSize)
		})
	case "term":
		return summary(b, func(d ledger.TermBegunData) string { return fmt.Sprintf("term %d begins", d.Term) })
	case "site-added":
		return summary(b, func(d ledger.SiteAddedData) string { return fmt.Sprintf("%s (%s)", d.Cluster, d.Site) })
	case federation.SettingsDecision:
		return summary(b, func(d federation.Settings) string { return "settings " + d.Digest().Short() })
	case federation.CandidateDecision:
		return summary(b, func(d federation.Candidate) string {
			return fmt.Sprintf("r%d is %s: %d routes, %d listeners, from seq %d", d.Revision, d.Fingerprint.Short(), d.Routes, d.Listeners, d.Seq)
		})
	case federation.TasteDecision:
		return summary(b, func(d federation.Taste) string {
			switch {
			case !d.OK:
				return fmt.Sprintf("r%d refused: %s", d.Revision, d.Message)
			case d.Taster == "":
				return fmt.Sprintf("r%d not tasted", d.Revision)
			}
			return fmt.Sprintf("r%d taken by Envoy %s", d.Revision, d.Taster)
		})
	case projector.HeadDecision:
		return summary(b, func(d projector.Head) string {
			return fmt.Sprintf("ring %s serves r%d (%s), generation %d", d.Ring, d.Revision, d.Why, d.Generation)
		})
	case federation.VerdictDecision:
		return summary(b, func(d federation.Verdict) string {
			if d.Result == federation.ResultNacked {
				return fmt.Sprintf("r%d refused by %s: %s", d.Revision, d.Node, d.Message)
			}
			return fmt.Sprintf("r%d %s by %d Envoys", d.Revision, d.Result, d.Envoys)
		})
	case federation.HoldDecision:
		return summary(b, func(d federation.Hold) string {
			return fmt.Sprintf("%s: %s of fleet %s to r%d (was r%d)", d.ID, d.Kind, d.Fleet, d.Revision, d.From)
		})
	case federation.ReleaseDecision:
		return summary(b, func(d federation.Release) string { return d.ID + " released" })
	case federation.ConsentDecision:
		return summary(b, func(d federation.Consent) string { return "shrunk snapshot " + d.Fingerprint.Short() + " let through" })
	case projector.ConfirmDecision:
		return summary(b, func(d projector.Confirm) string {
			return fmt.Sprintf("removal of seq %d of %s let through", d.Seq, d.Cluster)
		})
	}
	return "", nil
}

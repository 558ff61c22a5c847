package show

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/console"
)

// short returns the first 12 digits of a digest.
func short(digest string) string {
	d := strings.TrimPrefix(digest, "sha256:")
	return d[:min(len(d), 12)]
}

func revision(n uint64) string {
	if n == 0 {
		return ""
	}
	return "r" + strconv.FormatUint(n, 10)
}

func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + one + "s"
}

func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

func age(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return console.Age(now.Sub(t))
}

// who names an actor, with how the name is known: a tool's name must not be
// taken for a person's.
func who(by, source string) string {
	if by == "" {
		return ""
	}
	if source == "" {
		return by
	}
	return by + " (" + source + ")"
}

// Status writes how an install is: a sentence first.
func Status(w io.Writer, s console.Status, o Options) error {
	return view{kind: "Status", data: s, names: []string{string(s.State)}, text: func(b *strings.Builder) { statusText(b, s, o) }}.write(w, o)
}

func statusText(b *strings.Builder, s console.Status, o Options) {
	b.WriteString(Clean(s.Sentence))
	b.WriteByte('\n')
	section := func(t Table) {
		if len(t.Rows) > 0 {
			b.WriteByte('\n')
			t.write(b, o)
		}
	}
	section(siteTable(s.Sites, s.Now))
	section(edgeTable(s.Edges, s.Now))
	section(holdTable(s.Holds, s.Now))
	if len(s.Withheld) > 0 {
		b.WriteString("\nWITHHELD\n")
		for _, wh := range s.Withheld {
			b.WriteString("  " + Clean(wh.Message) + "\n")
		}
	}
	if s.Errors+s.Warnings > 0 {
		fmt.Fprintf(b, "\nFINDINGS  %s, %s: chancery get findings\n", count(s.Errors, "error"), count(s.Warnings, "warning"))
	}
	if len(s.Notes) > 0 {
		b.WriteByte('\n')
	}
	for _, n := range s.Notes {
		b.WriteString("note: " + Clean(n) + "\n")
	}
	if next := nextCommand(s); next != "" {
		b.WriteString("\nnext: " + Clean(next) + "\n")
	}
}

// nextCommand is the command that an operator most likely wants now.
func nextCommand(s console.Status) string {
	switch {
	case s.State == console.Rejected:
		return "chancery get edges -o wide"
	case len(s.Withheld) > 0 && s.Withheld[0].Cluster != "":
		return "chancery confirm --cluster " + s.Withheld[0].Cluster
	case len(s.Withheld) > 0:
		return "chancery confirm"
	case s.Errors > 0 || s.Objects["rejected"] > 0:
		return "chancery get findings"
	case len(s.Holds) > 0:
		return "chancery hold show " + s.Holds[0].ID
	case s.Head == nil:
		return "chancery history"
	}
	return ""
}

func siteTable(sites []console.Site, now time.Time) Table {
	t := Table{Columns: columns("SITE", "OBJECTS", "LAST EVENT", "NOTE", "|", "EPOCH", "SYNCED", "SOURCE")}
	for _, s := range sites {
		note := s.Problem
		switch {
		case note != "":
		case s.Syncing:
			note = "reading everything"
		case s.Synced == 0:
			note = "nothing heard yet"
		case len(s.Findings) > 0:
			note = fmt.Sprintf("%d files or documents cannot be read", len(s.Findings))
		}
		last := age(now, s.Last)
		if last != "" {
			last += " ago"
		}
		t.Rows = append(t.Rows, []string{
			s.Cluster, strconv.Itoa(s.Objects), last, note, strconv.FormatUint(s.Epoch, 10), strconv.FormatUint(s.Synced, 10), s.Source,
		})
	}
	return t
}

func edgeTable(edges []console.Edge, now time.Time) Table {
	t := Table{Columns: columns("EDGE", "RING", "STATE", "REVISION", "ENVOYS", "SEEN", "NOTE", "|", "GENERATION", "FINGERPRINT", "BUILD")}
	for _, e := range edges {
		served := 0
		for _, n := range e.Envoys {
			if n.Answer == "served" && n.Generation == e.Generation {
				served++
			}
		}
		note := e.Note
		if note == "" && len(e.Problems) > 0 {
			note = e.Problems[0]
			if len(e.Problems) > 1 {
				note += fmt.Sprintf(" (and %d more)", len(e.Problems)-1)
			}
		}
		t.Rows = append(t.Rows, []string{
			e.Name, e.Ring, string(e.State), revision(e.Revision), fmt.Sprintf("%d/%d", served, len(e.Envoys)), age(now, e.Seen) + " ago", note,
			strconv.FormatUint(e.Generation, 10), short(e.Fingerprint), e.Build,
		})
	}
	return t
}

func holdTable(holds []console.Hold, now time.Time) Table {
	t := Table{Columns: columns("HOLD", "KIND", "SERVES", "INSTEAD OF", "AGE", "BY", "REASON", "|", "FLEET", "SEQ", "FINGERPRINT")}
	for _, h := range holds {
		t.Rows = append(t.Rows, []string{
			h.ID, h.Kind, revision(h.Revision), revision(h.From), age(now, h.At), who(h.By, h.BySource), h.Reason,
			h.Fleet, strconv.FormatUint(h.Seq, 10), short(h.Fingerprint),
		})
	}
	return t
}

// list writes things of one kind as a table, with what to say when there are
// none.
func list[T any](w io.Writer, kind string, l console.List[T], t Table, name func(T) string, none string, o Options) error {
	names := make([]string, len(l.Items))
	for i, it := range l.Items {
		names[i] = name(it)
	}
	return view{kind: kind, data: l, names: names, text: func(b *strings.Builder) {
		if len(t.Rows) > 0 {
			t.write(b, o)
			return
		}
		o.talk(none)
	}}.write(w, o)
}

func (o Options) talk(s string) {
	if o.Talk != nil {
		_, _ = fmt.Fprintln(o.Talk, s) // there is nobody else to tell
	}
}

// Objects writes objects with their states.
func Objects(w io.Writer, l console.List[console.Object], o Options) error {
	t := Table{Columns: columns("CLUSTER", "KIND", "NAMESPACE", "NAME", "STATE", "COMPILED", "AGE", "FINDINGS", "|", "GROUP", "SEQ", "DIGEST", "BY")}
	for _, it := range l.Items {
		t.Rows = append(t.Rows, []string{
			it.Cluster, it.Kind, it.Namespace, it.Name, it.State, compiled(it), age(l.Now, it.At), findingsOf(it.Findings),
			it.Group, strconv.FormatUint(it.Seq, 10), short(it.Digest), who(it.By, it.BySource),
		})
	}
	return list(w, "ObjectList", l, t, func(it console.Object) string { return it.Key }, "No objects match.", o)
}

// compiled says which version of an object is compiled.
func compiled(o console.Object) string {
	switch {
	case o.Serving != "":
		return "last good " + short(o.Serving)
	case o.State == "accepted":
		return "yes"
	case o.State == "rejected":
		return "no"
	}
	return ""
}

// findingsOf names the codes of findings, errors first.
func findingsOf(fs []console.Finding) string {
	var codes []string
	for _, f := range errorsFirst(fs) {
		if !slices.Contains(codes, f.Code) {
			codes = append(codes, f.Code)
		}
	}
	return strings.Join(codes, " ")
}

func errorsFirst(fs []console.Finding) []console.Finding {
	fs = slices.Clone(fs)
	slices.SortStableFunc(fs, func(a, b console.Finding) int { return rank(a) - rank(b) })
	return fs
}

func rank(f console.Finding) int {
	return slices.Index([]string{"error", "warning", "info"}, f.Severity)
}

// Object writes one object with its report and its canonical form.
func Object(w io.Writer, it console.Object, o Options) error {
	return view{kind: "Object", data: it, names: []string{it.Key}, text: func(b *strings.Builder) {
		fields(b, "object", it.Key, "state", it.State, "compiled", compiled(it), "digest", it.Digest,
			"recorded", fmt.Sprintf("seq %d, %s", it.Seq, clock(it.At)), "by", who(it.By, it.BySource))
		for _, f := range errorsFirst(it.Findings) {
			b.WriteString("\n")
			findingText(b, f, "")
		}
		if it.TooLarge > 0 {
			fmt.Fprintf(b, "\nThe object has %d bytes, too many to record.\n", it.TooLarge)
		}
		if len(it.Canonical) > 0 {
			b.WriteString("\n")
			b.WriteString(indented(it.Canonical))
		}
	}}.write(w, o)
}

// indented returns JSON for people, with control characters escaped.
func indented(raw json.RawMessage) string {
	var out bytes.Buffer
	if err := json.Indent(&out, escapeControls(raw), "", "  "); err != nil {
		return Clean(string(raw)) + "\n"
	}
	return out.String() + "\n"
}

// fields writes name and value pairs, without those whose value is empty.
func fields(b *strings.Builder, pairs ...string) {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		width = max(width, len(pairs[i]))
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(b, "%-*s  %s\n", width+1, pairs[i]+":", Clean(pairs[i+1]))
		}
	}
}

// findingText writes a finding in lines of text.
func findingText(b *strings.Builder, f console.Finding, where string) {
	head := f.Severity
	if f.Code != "" {
		head += " " + f.Code
	}
	if where != "" {
		head += " " + where
	}
	if f.Path != "" {
		head += " " + f.Path
	}
	b.WriteString(Clean(head) + "\n    " + Clean(f.Message) + "\n")
	if f.Other != "" {
		b.WriteString("    see " + Clean(f.Other) + "\n")
	}
	if f.Remedy != "" {
		b.WriteString("    fix: " + Clean(f.Remedy) + "\n")
	}
}

// Findings writes findings, each in lines of text.
func Findings(w io.Writer, l console.List[console.Finding], o Options) error {
	names := make([]string, len(l.Items))
	for i, f := range l.Items {
		names[i] = strings.TrimSpace(f.Code + " " + f.Object)
	}
	return view{kind: "FindingList", data: l, names: names, text: func(b *strings.Builder) {
		if len(l.Items) == 0 {
			o.talk("No findings.")
		}
		for _, f := range l.Items {
			findingText(b, f, f.Object)
		}
	}}.write(w, o)
}

// Edges writes edge servers; in wide format with their Envoys.
func Edges(w io.Writer, l console.List[console.Edge], o Options) error {
	t := edgeTable(l.Items, l.Now)
	if o.Format == Wide {
		t = Table{Columns: columns("EDGE", "STATE", "REVISION", "GENERATION", "ENVOY", "ANSWER", "ABOUT", "MESSAGE")}
		for _, e := range l.Items {
			row := []string{e.Name, string(e.State), revision(e.Revision), strconv.FormatUint(e.Generation, 10)}
			if len(e.Envoys) == 0 {
				t.Rows = append(t.Rows, append(row, "", "", "", e.Note))
			}
			for _, n := range e.Envoys {
				message := n.Message
				if n.Type != "" {
					message = n.Type + " " + strings.Join(n.Resources, ", ") + ": " + n.Message
				}
				t.Rows = append(t.Rows, append(slices.Clone(row), n.Node, n.Answer, strconv.FormatUint(n.Generation, 10), message))
			}
		}
	}
	return list(w, "EdgeList", l, t, func(e console.Edge) string { return e.Name }, "No edge has been heard.", o)
}

// Sites writes sources of objects.
func Sites(w io.Writer, l console.List[console.Site], o Options) error {
	return list(w, "SiteList", l, siteTable(l.Items, l.Now), func(s console.Site) string { return s.Cluster }, "No site has been added.", o)
}

// Holds writes holds.
func Holds(w io.Writer, l console.List[console.Hold], o Options) error {
	return list(w, "HoldList", l, holdTable(l.Items, l.Now), func(h console.Hold) string { return h.ID }, "No holds: what is served follows the source.", o)
}

// Hold writes one hold.
func Hold(w io.Writer, h console.Hold, o Options) error {
	return view{kind: "Hold", data: h, names: []string{h.ID}, text: func(b *strings.Builder) {
		fields(b, "hold", h.ID, "kind", h.Kind, "fleet", h.Fleet, "serves", revision(h.Revision)+" "+short(h.Fingerprint),
			"instead of", revision(h.From), "since", clock(h.At)+" UTC", "by", who(h.By, h.BySource), "reason", h.Reason, "recorded", fmt.Sprintf("seq %d", h.Seq))
		b.WriteString("\nIt ends with: chancery hold release " + Clean(h.ID) + "\n")
	}}.write(w, o)
}

// Revisions writes revisions.
func Revisions(w io.Writer, l console.List[console.Revision], o Options) error {
	t := Table{Columns: columns("REVISION", "STATE", "HEAD", "ROUTES", "LISTENERS", "AGE", "FINGERPRINT", "MESSAGE", "|", "SEQ", "TASTER", "BUILD")}
	for _, r := range l.Items {
		head := ""
		if r.Head {
			head = "*"
		}
		t.Rows = append(t.Rows, []string{
			revision(r.Revision), r.State, head, strconv.Itoa(r.Routes), strconv.Itoa(r.Listeners), age(l.Now, r.At), short(r.Fingerprint), r.Message,
			strconv.FormatUint(r.Seq, 10), r.Taster, r.Build,
		})
	}
	return list(w, "RevisionList", l, t, func(r console.Revision) string { return revision(r.Revision) }, "No revision has been made.", o)
}

// Revision writes one revision.
func Revision(w io.Writer, r console.Revision, o Options) error {
	return view{kind: "Revision", data: r, names: []string{revision(r.Revision)}, text: func(b *strings.Builder) {
		fields(b, "revision", revision(r.Revision), "fleet", r.Fleet, "state", r.State, "head", map[bool]string{true: "yes"}[r.Head],
			"fingerprint", r.Fingerprint, "compiled", fmt.Sprintf("from seq %d by %s", r.Seq, r.Build), "recorded", fmt.Sprintf("seq %d, %s", r.Event, clock(r.At)),
			"routes", strconv.Itoa(r.Routes), "listeners", strconv.Itoa(r.Listeners), "taster", r.Taster, "message", r.Message)
		for _, k := range slices.Sorted(maps.Keys(r.Kept)) {
			b.WriteString("kept: " + Clean(k) + " in its last good version " + Clean(short(r.Kept[k])) + "\n")
		}
	}}.write(w, o)
}

// Resources writes resources of a snapshot; one with a body as its body.
func Resources(w io.Writer, l console.List[console.Resource], o Options) error {
	if len(l.Items) == 1 && len(l.Items[0].Body) > 0 && (o.Format == Tables || o.Format == Wide) {
		_, err := io.WriteString(w, indented(l.Items[0].Body))
		return err
	}
	t := Table{Columns: columns("TYPE", "NAME", "BYTES", "SOURCES", "|", "VERSION")}
	for _, r := range l.Items {
		t.Rows = append(t.Rows, []string{r.Type, r.Name, strconv.Itoa(r.Bytes), strings.Join(r.Sources, " "), short(r.Version)})
	}
	return list(w, "ResourceList", l, t, func(r console.Resource) string { return r.Type + "/" + r.Name }, "Nothing is served yet, or nothing matches.", o)
}

// History writes events, newest first as they come.
func History(w io.Writer, l console.List[console.Event], o Options) error {
	t := eventTable(l.Items)
	return list(w, "EventList", l, t, func(e console.Event) string { return strconv.FormatUint(e.Seq, 10) }, "No events match.", o)
}

func eventTable(events []console.Event) Table {
	t := Table{Columns: columns("SEQ", "TIME (UTC)", "CLUSTER", "TYPE", "OBJECT", "BY", "WHAT", "|", "DIGEST", "ID")}
	for _, e := range events {
		t.Rows = append(t.Rows, eventRow(e))
	}
	return t
}

func eventRow(e console.Event) []string {
	object := e.Object
	if c, rest, ok := strings.Cut(object, ":"); ok && c == e.Cluster {
		object = rest
	}
	if object == "" && e.Scope != "" && e.Scope != e.Cluster {
		object = "fleet " + e.Scope
	}
	what := e.Summary
	if e.Reason != "" {
		what = strings.TrimSpace(what + " — " + strconv.Quote(e.Reason))
	}
	return []string{strconv.FormatUint(e.Seq, 10), clock(e.Time), e.Cluster, e.Type, object, who(e.By, e.BySource), what, short(e.Digest), e.ID}
}

// EventLine writes one event of a stream. Its columns are not aligned with
// those of the next.
func EventLine(w io.Writer, e console.Event, o Options) error {
	switch o.Format {
	case JSON:
		return Line(w, "Event", e)
	case YAML:
		if _, err := io.WriteString(w, "---\n"); err != nil {
			return err
		}
		return Document(w, YAML, "Event", e)
	case Names:
		_, err := fmt.Fprintln(w, e.Seq)
		return err
	default:
		o.NoHeaders = true
		var b strings.Builder
		eventTable([]console.Event{e}).write(&b, o)
		_, err := io.WriteString(w, b.String())
		return err
	}
}

// Plan writes what a pin would change.
func Plan(w io.Writer, p console.Plan, o Options) error {
	return view{kind: "Plan", data: p, names: []string{revision(p.To)}, text: func(b *strings.Builder) {
		fmt.Fprintf(b, "Pin fleet %s from %s to %s (recorded %s UTC).\n", Clean(p.Fleet), revision(p.From), revision(p.To), clock(p.ToAt))
		if len(p.Changes) == 0 {
			b.WriteString("No object changed in between.\n")
		}
		for i, c := range p.Changes {
			if i == maxPlanLines {
				fmt.Fprintf(b, "  … and %d more objects\n", len(p.Changes)-i)
				break
			}
			line := fmt.Sprintf("  %-8s %s", "undo", c.Object)
			if c.What == "deleted" {
				line = fmt.Sprintf("  %-8s %s", "restore", c.Object)
			}
			if p.To > p.From {
				line = fmt.Sprintf("  %-8s %s", "take", c.Object)
			}
			if c.By != "" {
				line += "  by " + c.By
			}
			b.WriteString(Clean(fmt.Sprintf("%s  seq %d", line, c.Seq)) + "\n")
		}
		for _, d := range p.Resources {
			fmt.Fprintf(b, "  %s: %d added, %d changed, %d removed\n", Clean(d.Type), len(d.Added), len(d.Changed), len(d.Removed))
		}
		b.WriteString("Nothing newer is served until the hold is released; endpoints and certificates stay current.\n")
		for _, n := range p.Notes {
			b.WriteString("note: " + Clean(n) + "\n")
		}
	}}.write(w, o)
}

// maxPlanLines bounds the objects that a plan lists for people.
const maxPlanLines = 20

// Answer writes what a command did.
func Answer(w io.Writer, a console.Answer, o Options) error {
	name := a.Hold
	if name == "" {
		name = strconv.FormatUint(a.Seq, 10)
	}
	return view{kind: "Answer", data: a, names: []string{name}, text: func(b *strings.Builder) {
		fmt.Fprintf(b, "%s (seq %d)\n", Clean(a.Message), a.Seq)
	}}.write(w, o)
}

// Verified writes the outcome of a verification.
func Verified(w io.Writer, v console.Verified, o Options) error {
	return view{kind: "Verified", data: v, names: []string{v.Root}, text: func(b *strings.Builder) {
		if !v.OK {
			b.WriteString("The ledger is damaged.\n" + Clean(v.Message) + "\n")
			return
		}
		fmt.Fprintf(b, "The ledger is whole: %d events, every signature, hash and index verified.\n", v.Size)
		checkpoint := "none yet"
		if v.Checkpoint > 0 {
			checkpoint = fmt.Sprintf("signed at %d", v.Checkpoint)
		}
		fields(b, "root", v.Root, "checkpoint", checkpoint, "install", v.Install)
	}}.write(w, o)
}

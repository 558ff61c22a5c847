package console

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/projector"
)

// maxListed bounds how many objects of a withheld removal are listed.
const maxListed = 100

func statusOf(in hub.Inside, install string) Status {
	f := in.Fleet
	out := Status{
		Fleet: string(f.Name), Install: install, Now: in.Now, Seq: uint64(in.State.Seq), Term: in.State.Term,
		Deciding: in.Deciding, LastGood: f.LastGood, Envoys: in.Answers.Envoys, Served: in.Answers.Served,
		Sites: sitesOf(in), Edges: edgesOf(in), Holds: holdsOf(in), Withheld: withheldOf(in),
		Objects: map[string]int{}, Notes: []string{},
	}
	if f.HeadSeq > 0 {
		out.Head = &Head{
			Ring: f.Head.Ring, Generation: f.Head.Generation, Revision: f.Head.Revision,
			Fingerprint: f.Head.Fingerprint.String(), Why: f.Head.Why, Seq: uint64(f.HeadSeq), At: f.HeadAt,
		}
	}
	newest := f.Newest()
	if newest != nil {
		out.Newest = newest.Revision
	}
	for _, k := range in.Projection.Keys() {
		r, ok := in.Compiler.Report(k)
		if !ok {
			out.Objects[string(unknownState)]++
			continue
		}
		out.Objects[string(r.State)]++
		for _, finding := range r.Findings {
			switch finding.Severity {
			case projector.Error:
				out.Errors++
			case projector.Warning:
				out.Warnings++
			case projector.Info:
			}
		}
	}
	for _, s := range out.Sites {
		out.Errors += len(s.Findings)
	}
	out.notes(in, newest)
	out.State = fleetState(in)
	out.InSync = out.Head != nil && (out.State == Serving || out.State == Held)
	out.Sentence = out.sentence(newest)
	return out
}

// unknownState is the state of an object that has not been compiled yet.
const unknownState projector.State = "unknown"

func (s *Status) notes(in hub.Inside, newest *federation.Revision) {
	note := func(format string, args ...any) { s.Notes = append(s.Notes, fmt.Sprintf(format, args...)) }
	switch {
	case in.Fenced:
		note("another hub decides (term %d); this one only follows", in.State.Term)
	case !in.Deciding:
		note("no term is held yet: nothing is decided until the stream answers")
	}
	if in.Unsent > 0 {
		note("%d decisions wait for the stream to take them", in.Unsent)
	}
	if newest != nil && newest.Tasted != nil {
		switch {
		case !newest.Tasted.OK:
			note("r%d was refused before it was served: %s", newest.Revision, newest.Tasted.Message)
		case newest.Tasted.Taster == "":
			note("no Envoy tastes candidates: the first ring is the first taste")
		}
	}
	if newest != nil && newest.Nacked != nil {
		note("r%d was refused by %s: %s", newest.Revision, newest.Nacked.Node, newest.Nacked.Message)
	}
	for _, site := range s.Sites {
		if site.Problem != "" {
			note("site %s: %s", site.Cluster, site.Problem)
		}
	}
}

// sentence says it in one line.
func (s *Status) sentence(newest *federation.Revision) string {
	if s.Head == nil {
		switch {
		case len(s.Sites) == 0:
			return "Nothing is served yet: no site has told anything."
		case newest == nil:
			return "Nothing is served yet: nothing has been compiled."
		case newest.Tasted == nil:
			return fmt.Sprintf("Nothing is served yet: r%d is being tasted.", newest.Revision)
		case !newest.Tasted.OK:
			return fmt.Sprintf("Nothing is served yet: r%d was refused by the taster.", newest.Revision)
		}
		return "Nothing is served yet."
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d Envoys serve r%d (%s old)", s.Served, s.Envoys, s.Head.Revision, Age(s.Now.Sub(s.Head.At)))
	switch {
	case s.State == Offline:
		b.WriteString(": no edge is heard")
	case s.Envoys == 0:
		b.WriteString(": no Envoy is connected")
	case s.InSync:
		b.WriteString(": in sync")
	case s.State == Rejected:
		b.WriteString(": rejected")
	case s.State == Behind:
		fmt.Fprintf(&b, ": %d behind", s.Envoys-s.Served)
	default:
		b.WriteString(": applying")
	}
	for _, part := range []struct {
		n              int
		one, more, sep string
	}{
		{len(s.Holds), "1 hold", "%d holds", ", "},
		{len(s.Withheld), "1 removal withheld", "%d removals withheld", ", "},
		{s.Objects[string(projector.Rejected)], "1 object rejected", "%d objects rejected", ", "},
	} {
		switch {
		case part.n == 1:
			b.WriteString(part.sep + part.one)
		case part.n > 1:
			fmt.Fprintf(&b, part.sep+part.more, part.n)
		}
	}
	b.WriteString(".")
	return b.String()
}

// Age writes a duration for people, in its largest unit.
func Age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// fleetState is the worst word of the edges that are online, or Offline.
func fleetState(in hub.Inside) Word {
	seen := map[Word]bool{}
	for _, name := range slices.Sorted(maps.Keys(in.Edges)) {
		w, _ := edgeState(in, in.Edges[name])
		seen[w] = true
	}
	for _, w := range []Word{Rejected, Behind, Applying, Held, Serving} {
		if seen[w] {
			return w
		}
	}
	return Offline
}

// edgeState is an edge's word, with what an operator should know beside it.
func edgeState(in hub.Inside, e federation.SeenEdge) (Word, string) {
	head := in.Fleet.Head
	if !e.Online(in.Now) {
		return Offline, "not heard of since " + e.At.UTC().Format(time.TimeOnly) + " UTC"
	}
	served := 0
	for _, n := range e.Envoys {
		if n.Generation != head.Generation {
			continue
		}
		switch n.Kind {
		case projector.Nacked:
			return Rejected, fmt.Sprintf("%s refused %s %s: %s", n.Node, n.Type, strings.Join(n.Resources, ", "), n.Message)
		case projector.Served:
			served++
		case projector.Acked:
		}
	}
	if in.Fleet.HeadSeq > 0 && e.Generation == head.Generation && served == len(e.Envoys) && served > 0 {
		if in.Fleet.Pinned() != nil {
			return Held, ""
		}
		return Serving, ""
	}
	note := ""
	switch {
	case len(e.Envoys) == 0:
		note = "no Envoy is connected"
	case e.Generation == head.Generation:
		note = fmt.Sprintf("%d of %d Envoys serve r%d", served, len(e.Envoys), head.Revision)
	}
	if in.Fleet.HeadSeq > 0 && in.Now.Sub(in.Fleet.HeadAt) > Patience {
		return Behind, note
	}
	return Applying, note
}

func sitesOf(in hub.Inside) []Site {
	out := []Site{}
	told := map[string]bool{}
	for _, s := range in.Projection.Sites() {
		v := Site{
			Cluster: string(s.Cluster), Source: in.State.Sites[s.Cluster].Site, Objects: s.Objects, Epoch: s.Epoch,
			Synced: uint64(s.Synced), Syncing: s.Syncing, Last: s.Last, Problem: s.Problem,
		}
		for _, f := range s.Findings {
			v.Findings = append(v.Findings, SiteFinding{Where: f.Where, Message: f.Message})
		}
		told[v.Cluster] = true
		out = append(out, v)
	}
	for name, s := range in.State.Sites {
		if !told[string(name)] {
			out = append(out, Site{Cluster: string(name), Source: s.Site})
		}
	}
	slices.SortFunc(out, func(a, b Site) int { return strings.Compare(a.Cluster, b.Cluster) })
	return out
}

func edgesOf(in hub.Inside) []Edge {
	out := []Edge{}
	for _, name := range slices.Sorted(maps.Keys(in.Edges)) {
		e := in.Edges[name]
		v := Edge{
			Name: e.Edge, Fleet: string(e.Fleet), Ring: e.Ring, Revision: e.Revision, Generation: e.Generation,
			Fingerprint: e.Fingerprint.String(), Build: e.Build, Seen: e.At, Problems: slices.Clone(e.Problems),
		}
		v.State, v.Note = edgeState(in, e)
		for _, n := range e.Envoys {
			envoy := Envoy{Node: n.Node, Answer: string(n.Kind), Generation: n.Generation, Message: n.Message, Resources: slices.Clone(n.Resources)}
			if n.Kind == projector.Nacked {
				envoy.Type = n.Type.String()
			}
			v.Envoys = append(v.Envoys, envoy)
		}
		out = append(out, v)
	}
	return out
}

func holdsOf(in hub.Inside) []Hold {
	out := []Hold{}
	for _, h := range in.Fleet.Holds {
		out = append(out, Hold{
			ID: h.ID, Kind: string(h.Kind), Fleet: string(h.Fleet), Revision: h.Revision, Fingerprint: h.Fingerprint.String(),
			From: h.From, Seq: uint64(h.Seq), At: h.At, By: h.By.Name, BySource: h.By.Source, Reason: h.Reason,
		})
	}
	return out
}

func withheldOf(in hub.Inside) []Withheld {
	out := []Withheld{}
	for _, s := range in.Projection.Sites() {
		if s.Withheld == nil {
			continue
		}
		w := Withheld{
			Cluster: string(s.Cluster), Seq: uint64(s.Withheld.Seq), Count: len(s.Withheld.Objects), Of: s.Withheld.Of,
			Message: fmt.Sprintf("%s no longer lists %d of its %d objects; they are served on until: chancery confirm --cluster %s", s.Cluster, len(s.Withheld.Objects), s.Withheld.Of, s.Cluster),
		}
		for _, k := range s.Withheld.Objects[:min(len(s.Withheld.Objects), maxListed)] {
			w.Objects = append(w.Objects, k.String())
		}
		out = append(out, w)
	}
	if sh := in.Shrink; sh != nil {
		out = append(out, Withheld{
			Seq: uint64(sh.Seq), Count: max(sh.RoutesBefore-sh.Routes, 0), Of: sh.RoutesBefore, GoneListeners: slices.Clone(sh.GoneListeners),
			Message: fmt.Sprintf("the newest snapshot has %d routes instead of %d%s; the one before is served on until: chancery confirm", sh.Routes, sh.RoutesBefore, gone(sh.GoneListeners)),
		})
	}
	return out
}

func gone(listeners []string) string {
	if len(listeners) == 0 {
		return ""
	}
	return " and lacks listener " + strings.Join(listeners, ", ")
}

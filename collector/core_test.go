package collector_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/collector/collectortest"
	"github.com/chancery-dev/chancery/ledger"
)

// driver runs a core without a shell: everything happens at once, and in order.
type driver struct {
	t    *testing.T
	core *collector.Core
	box  *collectortest.Outbox
	hub  *collectortest.Hub
	now  time.Time
	sent int
	full bool
	last collector.Effects
}

func drive(t *testing.T) *driver {
	t.Helper()
	hub, err := collectortest.NewHub(collectortest.Cluster, collectortest.Key().Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	d := &driver{t: t, box: collectortest.NewOutbox(nil, 1<<30), hub: hub, now: time.Unix(1_700_000_000, 0)}
	d.start()
	return d
}

var lives int

// start puts a new core in the place of the one that was.
func (d *driver) start() {
	d.t.Helper()
	state, err := d.box.Load()
	if err != nil {
		d.t.Fatal(err)
	}
	lives++
	d.core = collector.NewCore(collector.Settings{
		Cluster: collectortest.Cluster, Instance: fmt.Sprintf("core%d", lives), Key: collectortest.Key(),
	}, state)
	epoch, err := d.hub.NewestEpoch(context.Background(), collectortest.Cluster)
	if err != nil {
		d.t.Fatal(err)
	}
	d.step(collector.Input{Known: &epoch})
}

// step does all that the core wants done, but for the hub's answers: see answers.
func (d *driver) step(in collector.Input) {
	d.t.Helper()
	for {
		d.now = d.now.Add(time.Millisecond)
		in.Full = d.full
		out := d.core.Step(in, d.now)
		d.last = out
		if err := d.box.Apply(out.Persist); err != nil {
			d.t.Fatal(err)
		}
		d.publish(out.Persist.Append)
		if out.Republish != nil {
			items, err := d.box.Read(*out.Republish, 1<<20, 1<<30)
			if err != nil {
				d.t.Fatal(err)
			}
			d.publish(items)
		}
		in = collector.Input{}
		if out.ReadBack != 0 {
			claim, ok, err := d.hub.FirstClaim(context.Background(), collectortest.Cluster, out.ReadBack)
			if err != nil {
				d.t.Fatal(err)
			}
			if ok {
				in.Claimed = &claim
				continue
			}
		}
		if !out.More {
			return
		}
	}
}

func (d *driver) publish(items []collector.Item) {
	for _, it := range items {
		d.sent++
		_ = d.hub.Publish(context.Background(), []collector.Message{{ // a fault may lose it
			At: it.At, Subject: it.Subject, Record: it.Record, ID: fmt.Sprint(d.sent),
		}})
	}
}

// answers gives the core what the hub has said.
func (d *driver) answers() {
	d.t.Helper()
	for {
		select {
		case m := <-d.hub.Control():
			d.step(collector.Input{Control: &m})
		default:
			return
		}
	}
}

func (d *driver) want(check func(*collectortest.Fold) error) {
	d.t.Helper()
	if err := check(d.hub.Fold()); err != nil {
		d.t.Fatal(err)
	}
}

// since returns the types of the events after the n-th, without their common parts.
func (d *driver) since(n int) []string {
	var out []string
	for _, e := range d.hub.Events()[n:] {
		kind := strings.TrimSuffix(strings.TrimPrefix(string(e.Type), "dev.chancery."), ".v1")
		if e.Object.Name != "" {
			kind += " " + e.Object.Name
		}
		out = append(out, kind)
	}
	return out
}

func full(n int) (*collector.Update, map[string]string) {
	u, want := &collector.Update{Full: true}, map[string]string{}
	for i := range n {
		name := fmt.Sprintf("m%d", i)
		u.Put = append(u.Put, object(name, "/"))
		want[name] = "/"
	}
	return u, want
}

func TestEpochs(t *testing.T) {
	d := drive(t)
	u, want := full(2)
	d.step(collector.Input{Update: u})
	d.want(collectortest.Mappings(want))
	if diff := cmp.Diff([]string{"sync.begin", "object.put m0", "object.put m1", "sync.end"}, d.since(0)); diff != "" {
		t.Errorf("first epoch (-want +got):\n%s", diff)
	}

	// What was not committed when the process ended is told again; what was, is listed.
	n := len(d.hub.Events())
	d.start()
	d.step(collector.Input{Update: u})
	if diff := cmp.Diff([]string{"sync.begin", "object.put m0", "object.put m1", "sync.end"}, d.since(n)); diff != "" {
		t.Errorf("second epoch, uncommitted (-want +got):\n%s", diff)
	}
	d.answers()
	n = len(d.hub.Events())
	d.start()
	d.step(collector.Input{Update: u})
	if diff := cmp.Diff([]string{"sync.begin", "sync.page", "sync.end"}, d.since(n)); diff != "" {
		t.Errorf("third epoch, committed (-want +got):\n%s", diff)
	}
	d.want(collectortest.All(collectortest.Mappings(want), collectortest.Syncs(3)))
}

// TestNothingBeforeTheClaim: while nobody knows whose the epoch is, no object is told.
func TestNothingBeforeTheClaim(t *testing.T) {
	core := collector.NewCore(collector.Settings{Cluster: "east", Instance: "a", Key: collectortest.Key()}, collector.State{})
	u, _ := full(3)
	at := time.Unix(1, 0)
	if out := core.Step(collector.Input{Update: u}, at); !out.Persist.IsZero() {
		t.Errorf("before the newest epoch is known: %+v", out.Persist)
	}
	known := uint64(4)
	out := core.Step(collector.Input{Known: &known}, at)
	if len(out.Persist.Append) != 1 || out.Persist.Epoch != 5 || out.ReadBack != 5 || !out.Persist.Reset {
		t.Errorf("the claim is %+v", out)
	}
	if out := core.Step(collector.Input{Update: u}, at); !out.Persist.IsZero() {
		t.Errorf("before the claim is read back: %+v", out.Persist)
	}
	out = core.Step(collector.Input{Claimed: &collector.Claim{Epoch: 5, Instance: "b"}}, at)
	if out.Persist.Epoch != 6 || len(out.Persist.Append) != 1 {
		t.Errorf("after the epoch was another's: %+v", out)
	}
	out = core.Step(collector.Input{Control: &collector.Control{Kind: collector.Trim, Epoch: 6, Instance: "a", N: 0}}, at)
	if len(out.Persist.Append) != 5 {
		t.Errorf("after the hub's word that epoch 6 is ours: %d events, want findings, 3 puts and an end", len(out.Persist.Append))
	}
}

func TestPagesAndSteps(t *testing.T) {
	d := drive(t)
	u, want := full(2500)
	d.step(collector.Input{Update: u})
	d.want(collectortest.All(collectortest.Mappings(want), collectortest.Syncs(1)))
	d.answers()
	n := len(d.hub.Events())
	d.start()
	d.step(collector.Input{Update: u})
	if diff := cmp.Diff([]string{"sync.begin", "sync.page", "sync.page", "sync.page", "sync.page", "sync.page", "sync.end"}, d.since(n)); diff != "" {
		t.Error(diff)
	}
	d.want(collectortest.All(collectortest.Mappings(want), collectortest.Syncs(2)))
}

func TestOutboxFull(t *testing.T) {
	d := drive(t)
	u, want := full(4)
	d.step(collector.Input{Update: u})
	d.answers()
	d.full = true
	n := len(d.hub.Events())
	for i := range 3 {
		d.step(collector.Input{Update: &collector.Update{Put: []*collector.Object{object("m1", fmt.Sprintf("/%d", i))}}})
	}
	d.step(collector.Input{Update: &collector.Update{Delete: []ledger.ObjectKey{object("m2", "").Key}}})
	if got := d.since(n); len(got) > 0 || !d.last.Waiting {
		t.Errorf("a full outbox took %v; waiting is %v", got, d.last.Waiting)
	}
	d.full = false
	d.step(collector.Input{})
	if diff := cmp.Diff([]string{"object.put m1", "object.delete m2"}, d.since(n)); diff != "" {
		t.Error(diff)
	}
	want["m1"] = "/2"
	delete(want, "m2")
	d.want(collectortest.Mappings(want))
}

func TestScopedList(t *testing.T) {
	d := drive(t)
	u, want := full(5)
	service, err := collectortest.Normaliser().Normalise(map[string]any{
		"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "s"},
	}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	u.Put = append(u.Put, service)
	d.step(collector.Input{Update: u})
	d.answers()
	n := len(d.hub.Events())
	d.step(collector.Input{Update: &collector.Update{
		Full: true, Scope: []collector.GroupKind{{Group: "getambassador.io", Kind: "Mapping"}},
		Put: append(u.Put[:4:4], object("new", "/n")),
	}})
	if diff := cmp.Diff([]string{"sync.begin", "sync.page", "object.put new", "sync.end"}, d.since(n)); diff != "" {
		t.Error(diff)
	}
	delete(want, "m4")
	want["new"] = "/n"
	d.want(collectortest.All(collectortest.Mappings(want), collectortest.Syncs(2)))
	if _, ok := d.hub.Fold().Objects[service.Key]; !ok {
		t.Error("a list of Mappings has removed a Service")
	}
}

func TestTooLarge(t *testing.T) {
	d := drive(t)
	u, _ := full(1)
	big := collectortest.Mapping("big", "/")
	big["spec"].(map[string]any)["service"] = strings.Repeat("x", ledger.MaxEventBytes)
	o, err := collectortest.Normaliser().Normalise(big, "big.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	u.Put = append(u.Put, o)
	d.step(collector.Input{Update: u})
	d.want(collectortest.Findings(1, "big.yaml: east:Mapping.getambassador.io/default/big has"))
	if v := d.hub.Fold().Objects[o.Key]; v.Data != nil || v.Event.Type != ledger.ObjectTooLarge || v.Digest != o.Digest {
		t.Errorf("recorded as %s with %d bytes", v.Event.Type, len(v.Data))
	}
	d.step(collector.Input{Update: &collector.Update{Put: []*collector.Object{object("big", "/small")}}})
	d.want(collectortest.All(collectortest.Mappings(map[string]string{"m0": "/", "big": "/small"}), collectortest.Findings(0, "")))
}

func TestFindingsOnlyWhenTheyChange(t *testing.T) {
	d := drive(t)
	u, _ := full(1)
	report := func(n int) *collector.Report {
		r := &collector.Report{}
		for i := range n {
			r.Findings = append(r.Findings, ledger.SiteFinding{Where: fmt.Sprintf("f%04d", i), Message: strings.Repeat("m", 2000)})
		}
		return r
	}
	u.Report = report(1)
	d.step(collector.Input{Update: u})
	n := len(d.hub.Events())
	d.step(collector.Input{Update: &collector.Update{Report: report(1)}})
	if got := d.since(n); len(got) > 0 {
		t.Errorf("the same findings made %v", got)
	}
	d.step(collector.Input{Update: &collector.Update{Report: report(5000)}})
	d.want(collectortest.Findings(201, "4800 more findings"))
	d.step(collector.Input{Update: &collector.Update{Report: report(0)}})
	d.want(collectortest.Findings(0, ""))
	d.answers()
	n = len(d.hub.Events())
	d.start()
	d.step(collector.Input{Update: u})
	if got := d.since(n); !slices.Contains(got, "site.findings") {
		t.Errorf("findings that are back made %v", got)
	}
}

func TestResend(t *testing.T) {
	d := drive(t)
	u, want := full(4)
	d.step(collector.Input{Update: u})
	d.answers()

	// Two events are lost on the way; the third shows it, and all three are published again.
	d.hub.SetFault(func(n int) collectortest.Fault {
		if n < 2 {
			return collectortest.Lost
		}
		return collectortest.None
	})
	for i := range 3 {
		name := fmt.Sprintf("m%d", i)
		want[name] = "/changed"
		d.step(collector.Input{Update: &collector.Update{Put: []*collector.Object{object(name, "/changed")}}})
	}
	d.answers()
	d.want(collectortest.Mappings(want))

	// The same is not published again for every time that the hub asks.
	sent := d.sent
	epoch, _ := d.core.Epoch()
	d.hub.SetMute(true)
	d.step(collector.Input{Update: &collector.Update{Put: []*collector.Object{object("m0", "/once")}}})
	ask := collector.Control{Kind: collector.Resend, Epoch: epoch, N: lastN(d)}
	for range 5 {
		d.step(collector.Input{Control: &ask})
	}
	if got := d.sent - sent; got != 2 {
		t.Errorf("published %d times, want twice", got)
	}
	// Where that does not help for a minute, everything is told in a new epoch.
	d.now = d.now.Add(2 * time.Minute)
	d.step(collector.Input{Control: &ask})
	if now, claimed := d.core.Epoch(); now != epoch+1 || !claimed {
		t.Errorf("epoch %d (claimed %v), want %d", now, claimed, epoch+1)
	}
	want["m0"] = "/once"
	d.want(collectortest.Mappings(want))
}

func lastN(d *driver) uint64 {
	events := d.hub.Events()
	return events[len(events)-1].ID.N
}

// TestHubSetBack: a hub that lost what it called committed gets everything again.
func TestHubSetBack(t *testing.T) {
	d := drive(t)
	u, want := full(3)
	d.step(collector.Input{Update: u})
	d.answers()
	fresh, err := collectortest.NewHub(collectortest.Cluster, collectortest.Key().Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	d.hub = fresh
	d.step(collector.Input{Update: &collector.Update{Put: []*collector.Object{object("m0", "/new")}}})
	d.answers()
	want["m0"] = "/new"
	d.want(collectortest.All(collectortest.Mappings(want), collectortest.Syncs(1)))
}

func TestOvertaken(t *testing.T) {
	d := drive(t)
	u, _ := full(2)
	d.step(collector.Input{Update: u})
	d.answers()
	other := func(epoch uint64) {
		d.step(collector.Input{Control: &collector.Control{Kind: collector.Trim, Epoch: epoch, Instance: "other", N: 3}})
	}
	other(4)
	if epoch, _ := d.core.Epoch(); epoch != 5 {
		t.Errorf("epoch %d after another's epoch 4, want 5", epoch)
	}
	other(8)
	if epoch, _ := d.core.Epoch(); epoch != 5 {
		t.Errorf("epoch %d at once after another's epoch 8, want to wait", epoch)
	}
	d.now = d.now.Add(time.Second)
	other(8)
	if epoch, _ := d.core.Epoch(); epoch != 9 {
		t.Errorf("epoch %d a while after another's epoch 8, want 9", epoch)
	}
}

// TestDeterminism: the same inputs make the same bytes.
func TestDeterminism(t *testing.T) {
	var runs [2][]byte
	for i := range runs {
		core := collector.NewCore(collector.Settings{Cluster: "east", Instance: "a", Key: collectortest.Key()}, collector.State{})
		zero := uint64(0)
		u, _ := full(50)
		at := time.Unix(1, 0)
		for _, in := range []collector.Input{
			{Known: &zero},
			{Update: u},
			{Claimed: &collector.Claim{Epoch: 1, Instance: "a"}},
			{Update: &collector.Update{Put: u.Put[:3], Delete: []ledger.ObjectKey{u.Put[4].Key, u.Put[7].Key}}},
			{Update: &collector.Update{Full: true, Put: u.Put[:10]}},
		} {
			out := core.Step(in, at)
			for _, it := range out.Persist.Append {
				runs[i] = append(runs[i], it.Record.Leaf()...)
			}
			b, err := json.Marshal(out.Persist.Tell)
			if err != nil {
				t.Fatal(err)
			}
			runs[i] = append(runs[i], b...)
		}
	}
	if !bytes.Equal(runs[0], runs[1]) || len(runs[0]) == 0 {
		t.Error("two runs differ")
	}
}

package e2e_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/xds"
)

// begins counts the incarnations of the stream in a ledger.
func begins(r Record) int {
	n := 0
	for _, e := range r.Events {
		if e.Type == ledger.StreamBegun {
			n++
		}
	}
	return n
}

func TestStreamStoreLost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		running bool // the fault happens while serve runs
		anew    bool // the stream has to begin anew
		fault   func(t *testing.T, store string)
	}{
		{"deleted", false, true, func(t *testing.T, store string) { must(t, os.RemoveAll(store)) }},
		{"bytes flipped", false, false, func(t *testing.T, store string) { damage(t, store, flip) }},
		{"files cut", false, false, func(t *testing.T, store string) { damage(t, store, cut) }},
		{"deleted while it runs", true, true, func(t *testing.T, store string) { must(t, os.RemoveAll(store)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := startPair(t)
			p.good("changed")
			load := p.StartLoad(100, 2, p.steady)
			store := filepath.Join(p.Data, "nats")
			if test.running {
				test.fault(t, store)
				// What happens to this change meanwhile is not promised, only that it is
				// not forgotten.
				p.changeTo("v2")
				load.More(100)
			}
			p.Stop()
			before := p.Ledger()
			if !test.running {
				test.fault(t, store)
			}
			p.changeTo("v2")
			p.Start()
			p.Ready()
			p.Served(expecting(p.changed, "v2"))
			p.changeTo("v1")
			p.Served(p.changed)
			p.InSync()
			p.Stop()
			after := p.Ledger()
			extends(t, before, after)
			// Of a damaged store, NATS itself may save enough to go on.
			if test.anew && begins(after) <= begins(before) {
				t.Errorf("%d incarnations of the stream are recorded, %d were before: the stream did not begin anew", begins(after), begins(before))
			}
			t.Logf("incarnations of the stream: %d, then %d", begins(before), begins(after))
			load.Stop()
		})
	}
}

// damage changes every file of the messages in a store.
func damage(t *testing.T, store string, how func([]byte) []byte) {
	t.Helper()
	n := 0
	must(t, filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".blk" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			return err
		}
		n++
		return os.WriteFile(path, how(b), 0o600)
	}))
	if n == 0 {
		t.Fatal("the store has no message files to damage")
	}
}

// flip flips a bit of every 500th byte.
func flip(b []byte) []byte {
	for i := 100; i < len(b); i += 500 {
		b[i] ^= 0x10
	}
	return b
}

func cut(b []byte) []byte { return b[:len(b)/2] }

func TestLedgerDamaged(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]func([]byte) []byte{
		"cut":        func(b []byte) []byte { return b[:used(b)/2] },
		"zeroed":     zeroed,
		"meta pages": func(b []byte) []byte { b[0x18] ^= 1; b[4096+0x18] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPair(t)
			p.good("changed")
			load := p.StartLoad(100, 2, p.steady, p.changed)
			p.Stop()
			before := p.Ledger()
			file := filepath.Join(p.Data, "ledger.db")
			b, err := os.ReadFile(file)
			must(t, err)
			must(t, os.WriteFile(file, how(b), 0o600))

			code, output := p.Refused()
			if code == 0 || !strings.Contains(output, "damaged") || !strings.Contains(output, "mv ") || !strings.Contains(output, "rebuilt") {
				t.Fatalf("with a damaged ledger serve ended with %d, want an error with the remedy:\n%s", code, output)
			}
			if _, talk, code := p.Run("verify", "--offline"); code == 0 {
				t.Errorf("verify --offline takes the damaged ledger: %s", talk)
			}
			load.More(50) // nobody but Envoy runs

			must(t, os.Rename(file, file+".damaged"))
			p.Start()
			p.Ready()
			p.changeTo("v1")
			p.InSync()
			p.Eventually("the ledger is as long as it was", func() error {
				if st := p.MustStatus(); st.Seq < uint64(len(before.Entries)) {
					return fmt.Errorf("at seq %d of %d", st.Seq, len(before.Entries))
				}
				return nil
			})
			load.Stop()
			p.changeTo("v2")
			p.Served(expecting(p.changed, "v2"))
			p.Stop()
			extends(t, before, p.Ledger())
		})
	}
}

// zeroed clears every page that holds a record of the Mapping steady. (A free
// page may hold an old one too; that is not damage.)
func zeroed(b []byte) []byte {
	for at := 0; ; {
		i := bytes.Index(b[at:], []byte("steady.example.com"))
		if i < 0 {
			return b
		}
		page := (at + i) &^ 4095
		at = min(page+4096, len(b))
		clear(b[page:at])
	}
}

// used returns how much of a file is not just zeroes at its end.
func used(b []byte) int { return len(bytes.TrimRight(b, "\x00")) }

// TestLedgerRecordFlipped changes a byte of a recorded object, which the file's
// structure does not show.
func TestLedgerRecordFlipped(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	p.good("changed")
	p.Stop()
	file := filepath.Join(p.Data, "ledger.db")
	b, err := os.ReadFile(file)
	must(t, err)
	forged := bytes.ReplaceAll(b, []byte("steady.example.com"), []byte("steadx.example.com"))
	if bytes.Equal(b, forged) {
		t.Fatal("the ledger does not hold what is to be changed")
	}
	must(t, os.WriteFile(file, forged, 0o600))
	out, talk, code := p.Run("verify", "--offline")
	if code == 0 || !strings.Contains(out+talk, "mv ") {
		t.Errorf("verify of a changed record ended with %d, want an error with the remedy:\n%s%s", code, out, talk)
	}
	// Nothing is made of it before it is verified.
	if code, output := p.Refused(); code == 0 || !strings.Contains(output, "mv ") {
		t.Errorf("serve with a changed record ended with %d, want an error with the remedy:\n%s", code, output)
	}
}

// namespaceVariable says that the test runs in a namespace of its own.
const namespaceVariable = "CHANCERY_E2E_NAMESPACE"

// inNamespace runs the test again as root of a user namespace, where it may
// mount.
func inNamespace(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), namespaceVariable+"=1", "CHANCERY_E2E_BINARY="+binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	t.Logf("in a namespace:\n%s", out)
	must(t, err)
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	must(t, os.MkdirAll(p.Data, 0o700))
	err := syscall.Mount("tmpfs", p.Data, "tmpfs", 0, "size=64m")
	if errors.Is(err, syscall.EPERM) && os.Getenv(namespaceVariable) == "" {
		inNamespace(t)
		return
	}
	if err != nil {
		t.Fatalf("mount a small file system: %v; run the test as root, or where user namespaces are allowed", err)
	}
	p.last = func() error { return syscall.Unmount(p.Data, syscall.MNT_DETACH) }
	p.begin()
	p.good("changed")
	load := p.StartLoad(100, 2, p.steady, expecting(p.changed, "v1", "v2"))
	for i := range Count(2, 20) {
		ballast := filepath.Join(p.Data, "ballast")
		f, err := os.Create(ballast)
		must(t, err)
		block := make([]byte, 1<<20)
		for err == nil {
			if _, err = f.Write(block); err != nil && len(block) > 1 {
				block, err = block[:len(block)/2], nil
			}
		}
		must(t, f.Close())
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		said := len(p.Log())
		p.changeTo("v2")
		// Enough that something has to be written.
		for n := range 200 {
			p.Write("east", fmt.Sprintf("filler-%d.yaml", n%20), Mapping(fmt.Sprintf("filler-%d", n%20), "changed.example.com", fmt.Sprintf("/filler-%d-%d/", i, n), "v1:8080", "labels: {ambassador: [{bulk: [{text: {key: text, value: "+strings.Repeat("x", 4000)+"}}]}]}"))
			if n%20 == 0 {
				load.More(20)
			}
		}
		p.Eventually("the log says that the disk is full", func() error {
			if text := p.Log()[said:]; !strings.Contains(text, "no space") {
				return errors.New("it does not")
			}
			return nil
		})
		load.More(100)
		must(t, os.Remove(ballast))
		p.Eventually("serve is up", func() error {
			if !p.Running() {
				t.Fatalf("serve ended: a full disk must not end it:\n%s", tail(p.Log(), 3000))
			}
			return p.Get(expecting(p.changed, "v2")).Err
		})
		p.changeTo("v1")
		p.Served(p.changed)
	}
	load.Stop()
	p.InSync()
	p.Stop()
	p.Ledger()
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--api", "--probes", "--metrics", "--xds"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, "east")
			l, err := net.Listen("tcp", s.IP(3)+":7777")
			must(t, err)
			defer func() { must(t, l.Close()) }()
			s.Flags = []string{flag, l.Addr().String()}
			code, output := s.Refused()
			for _, part := range []string{flag, l.Addr().String(), "in use"} {
				if code == 0 || !strings.Contains(output, part) {
					t.Errorf("serve ended with %d and does not say %q:\n%s", code, part, output)
				}
			}
		})
	}
}

// TestListenerPortInUse has another process on the port of one of two Listeners.
func TestListenerPortInUse(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	l, err := net.Listen("tcp", p.address(true))
	must(t, err)
	defer func() { _ = l.Close() }() // it may be closed
	p.begin()
	load := p.StartLoad(100, 2, p.steady, p.changed)
	load.More(100)
	f := p.Finding("Listener", "https", "8443", "in use")
	t.Logf("said of it: %s %s %s (%s)", f.Code, f.Object, f.Message, f.Remedy)
	load.More(50)
	if st := p.MustStatus(); st.InSync {
		t.Errorf("in sync without the Listener: %q", st.Sentence)
	}
	load.Stop()
}

func TestNewerDataDirectory(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	load := p.StartLoad(100, 2, p.steady)
	p.Stop()
	file := filepath.Join(p.Data, "format")
	have, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, []byte("99\n"), 0o600))
	code, output := p.Refused()
	for _, part := range []string{p.Data, "99", "newer chancery"} {
		if code == 0 || !strings.Contains(output, part) {
			t.Errorf("serve on a newer data directory ended with %d and does not say %q:\n%s", code, part, output)
		}
	}
	load.More(50)
	must(t, os.WriteFile(file, have, 0o600))
	p.Start()
	p.Ready()
	p.InSync()
	load.Stop()
}

func TestTwoServes(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	load := p.StartLoad(100, 2, p.steady, expecting(p.changed, "v1", "v2"))
	load.More(50)
	for range Count(2, 20) {
		out, talk, code := p.Run(p.arguments()...)
		if code == 0 || !strings.Contains(talk, "in use") || !strings.Contains(talk, fmt.Sprint(p.cmd.Process.Pid)) {
			t.Errorf("a second serve ended with %d, want that it names the first:\n%s%s", code, out, talk)
		}
	}
	p.changeTo("v2")
	p.Served(expecting(p.changed, "v2"))
	p.InSync()
	load.More(50)
	load.Stop()
}

// TestEdgeFromItsOwnDisk takes everything but the edge's directory away.
func TestEdgeFromItsOwnDisk(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	p.good("changed")
	load := p.StartLoad(100, 2, p.steady, p.changed)
	p.Kill()
	generation := p.edgeGeneration()
	authority, err := pki.Open(filepath.Join(p.Data, "pki"))
	must(t, err)
	key := authority.DecisionKey().Public().(ed25519.PublicKey)
	for _, name := range []string{"ledger.db", "nats", "shelf.db", "collectors", "taste"} {
		must(t, os.RemoveAll(filepath.Join(p.Data, name)))
	}
	load.More(100) // the Envoy asks nobody
	load.Stop()

	// An edge with nothing else has what it served.
	store, err := xds.OpenStore(filepath.Join(p.Data, "edge"), key)
	must(t, err)
	edge, err := xds.NewEdge(xds.EdgeOptions{Name: "cold", Fleet: federation.DefaultFleet, Ring: federation.DefaultRing, Hub: key, Source: nowhere{}, Store: store})
	must(t, err)
	gen, _ := edge.Cache().Current()
	if gen == nil || gen.Head.Head.Generation != generation || gen.Snapshot.Len(projector.Listeners) == 0 {
		t.Errorf("a cold edge begins with %+v, want generation %d", gen, generation)
	}
	must(t, store.Close())

	// So has the serve that starts on what is left, with an Envoy that starts from
	// nothing.
	must(t, syscall.Kill(p.EnvoyPID(), syscall.SIGKILL))
	begin := time.Now()
	p.Start()
	p.Served(p.steady)
	p.Served(p.changed)
	t.Logf("served again %s after the start of serve and Envoy", time.Since(begin).Round(time.Millisecond))
	p.Ready()
	// And it goes on: a hub that lost everything decides above what its edge has seen.
	p.changeTo("v2")
	p.Served(expecting(p.changed, "v2"))
	p.Stop()
	if g := p.edgeGeneration(); g < generation {
		t.Errorf("the edge had generation %d and has %d", generation, g)
	}
}

// nowhere is a source that has nothing.
type nowhere struct{}

func (nowhere) Manifest(context.Context, projector.Fingerprint) ([]byte, error) {
	return nil, errors.New("all is gone")
}

func (nowhere) Chunk(context.Context, ledger.Digest) ([]byte, error) {
	return nil, errors.New("all is gone")
}

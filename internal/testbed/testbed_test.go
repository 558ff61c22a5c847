package testbed_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/chancery-dev/chancery/internal/testbed"
)

// recorder is a testing.TB that keeps the message of Fatalf.
type recorder struct {
	testing.TB
	fatal string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// fatal runs f and returns what it told Fatalf, or the empty string.
func fatal(tb testing.TB, f func(testing.TB)) string {
	r := &recorder{TB: tb}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r.fatal
}

func TestEnvoyIsThePinnedVersion(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), testbed.Envoy(t), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "/" + testbed.EnvoyVersion + "/"; !strings.Contains(string(out), want) {
		t.Errorf("envoy --version printed %q, want %q in it", out, want)
	}
}

func TestTheInstallerPinsTheSameVersion(t *testing.T) {
	root := testbed.ModuleRoot(t)
	for file, want := range map[string]string{
		"tools/envoy.sh":  "\nversion=" + testbed.EnvoyVersion + "\n",
		"tools/envoy.txt": "\nenvoy-server==" + testbed.EnvoyVersion + " ",
	} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s does not contain %q", file, strings.TrimSpace(want))
		}
	}
}

func TestMissingEnvoyFailsWithTheRemedy(t *testing.T) {
	t.Setenv(testbed.EnvoyVariable, filepath.Join(t.TempDir(), "envoy"))
	got := fatal(t, func(tb testing.TB) { testbed.Envoy(tb) })
	if !strings.Contains(got, "run make envoy") {
		t.Errorf("a missing envoy failed with %q, want the remedy in it", got)
	}
}

func TestEnvoyMustBeExecutable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "envoy")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(testbed.EnvoyVariable, file)
	if got := fatal(t, func(tb testing.TB) { testbed.Envoy(tb) }); !strings.Contains(got, file) {
		t.Errorf("a file that is no program failed with %q, want its path in it", got)
	}
}

func TestModuleRootOutsideTheModule(t *testing.T) {
	t.Chdir(t.TempDir())
	if got := fatal(t, func(tb testing.TB) { testbed.ModuleRoot(tb) }); !strings.Contains(got, "no go.mod of ours") {
		t.Errorf("outside the module it failed with %q", got)
	}
}

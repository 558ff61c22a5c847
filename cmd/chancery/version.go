package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chancery-dev/chancery/console/show"
)

// built says what this program was made of.
type built struct {
	Version  string            `json:"version"`
	Commit   string            `json:"commit,omitempty"`
	Modified bool              `json:"modified,omitempty"`
	Time     string            `json:"time,omitempty"`
	Go       string            `json:"go"`
	Platform string            `json:"platform"`
	Modules  map[string]string `json:"modules"`
}

// shownModules are those whose version matters when something is odd.
var shownModules = []struct{ name, path string }{
	{"nats-server", "github.com/nats-io/nats-server/v2"},
	{"bbolt", "go.etcd.io/bbolt"},
	{"go-control-plane", "github.com/envoyproxy/go-control-plane"},
}

func buildInfo() built {
	b := built{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Modules: map[string]string{}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		case "vcs.time":
			b.Time = s.Value
		}
	}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		for _, m := range shownModules {
			if d.Path == m.path {
				b.Modules[m.name] = d.Version
			}
		}
	}
	return b
}

// buildVersion names this build, as it is recorded with candidates.
func buildVersion() string {
	b := buildInfo()
	v := b.Version
	if b.Commit != "" && !strings.Contains(v, b.Commit[:min(len(b.Commit), 12)]) {
		v += "+" + b.Commit[:min(len(b.Commit), 12)]
	}
	if b.Modified && !strings.HasSuffix(v, "dirty") {
		v += "+dirty"
	}
	return v
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say what this program was made of", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g, err := globalsOf(cmd)
			if err != nil {
				return err
			}
			b, w := buildInfo(), cmd.OutOrStdout()
			switch g.show.Format {
			case show.JSON, show.YAML:
				return show.Document(w, g.show.Format, "Version", b)
			case show.Names:
				fmt.Fprintln(w, buildVersion())
			default:
				fmt.Fprintf(w, "chancery %s\n%s %s\n", buildVersion(), b.Go, b.Platform)
				for _, m := range shownModules {
					if v := b.Modules[m.name]; v != "" {
						fmt.Fprintf(w, "%s %s\n", m.name, v)
					}
				}
			}
			return nil
		},
	}
}

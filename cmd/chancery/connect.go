package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/console/show"
	"github.com/chancery-dev/chancery/federation/pki"
)

// globals are the flags that every command has.
type globals struct {
	server, data, client      string
	fleet, cluster, namespace string
	offline                   bool
	timeout                   time.Duration
	show                      show.Options
}

func globalsOf(cmd *cobra.Command) (globals, error) {
	f := cmd.Flags()
	var g globals
	var err error
	text := func(name string) string {
		v, e := f.GetString(name)
		err = errors.Join(err, e)
		return v
	}
	flag := func(name string) bool {
		v, e := f.GetBool(name)
		err = errors.Join(err, e)
		return v
	}
	g.server, g.data, g.client = text("server"), text("data"), text("client")
	g.fleet, g.cluster, g.namespace = text("fleet"), text("cluster"), text("namespace")
	g.offline, g.show.NoHeaders = flag("offline"), flag("no-headers")
	if flag("all-namespaces") && g.namespace != "" {
		return g, usageError("--namespace and --all-namespaces exclude each other")
	}
	timeout, e := f.GetDuration("timeout")
	if err = errors.Join(err, e); err != nil {
		return g, err
	}
	if timeout <= 0 {
		return g, usageError(fmt.Sprintf("--timeout %s: want a positive duration", timeout))
	}
	g.timeout = timeout
	if g.show.Format, err = show.ParseFormat(text("output")); err != nil {
		return g, usageError("--output: " + err.Error())
	}
	g.show.Talk = cmd.ErrOrStderr()
	g.show.Colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(os.Stdout)
	return g, nil
}

// isTerminal reports whether a person is at the file.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

// connect returns a client of the install that the flags name, and what ends
// its use.
func (g globals) connect() (*console.Client, func() error, error) {
	if g.offline {
		return g.connectOffline()
	}
	file := g.client
	switch {
	case file != "":
	case g.data != "":
		file = filepath.Join(g.data, "client.yaml")
	default:
		dir, err := os.UserConfigDir()
		if err == nil {
			file = filepath.Join(dir, "chancery", "client.yaml")
			_, err = os.Stat(file)
		}
		if err != nil {
			return nil, nil, usageError("which install? name its data directory with --data DIR, or a client file with --client FILE")
		}
	}
	c, err := pki.ReadClientConfig(file)
	if err != nil {
		return nil, nil, err
	}
	if g.server != "" {
		c.Server = g.server
	}
	client, err := console.NewClient(c)
	if err != nil {
		return nil, nil, err
	}
	return client, func() error { return nil }, nil
}

// ask connects, asks within the time limit, and ends.
func (g globals) ask(ctx context.Context, question func(context.Context, *console.Client) error) (err error) {
	client, done, err := g.connect()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	return question(ctx, client)
}

// needData returns the data directory for a command that reads or changes it
// itself.
func (g globals) needData(what string) (string, error) {
	if g.data == "" {
		return "", usageError(what + " needs --data DIR, the data directory of a chancery serve")
	}
	info, err := os.Stat(g.data)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("data directory %s does not exist; chancery serve --data %s makes one", g.data, g.data)
	case err != nil:
		return "", fmt.Errorf("data directory: %w", err)
	case !info.IsDir():
		return "", fmt.Errorf("data directory: %s is not a directory; name another with --data", g.data)
	}
	return g.data, nil
}

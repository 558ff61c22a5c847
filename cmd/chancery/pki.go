package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-dev/chancery/console/show"
	"github.com/chancery-dev/chancery/federation/pki"
)

// issued says what pki issue wrote.
type issued struct {
	Identity string    `json:"identity"`
	Dir      string    `json:"dir"`
	NotAfter time.Time `json:"notAfter"`
	Files    []string  `json:"files"`
}

// pkiCommand hands out identities.
func pkiCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "pki", Short: "Certificates of the parts of an install"}
	var role, name, out string
	var names []string
	var lifetime time.Duration
	issue := &cobra.Command{
		Use: "issue --role ROLE --name NAME --out DIR --data DIR", Short: "Issue a certificate for a part, or for an operator",
		Long: `Issue a certificate from the authority in the data directory, for a part that
runs elsewhere or for an operator. The folder gets tls.crt, tls.key (mode 0600)
and ca.crt; an operator's gets a client.yaml too, where --server is given.

There is no revocation: choose a short --lifetime.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g, err := globalsOf(cmd)
			if err != nil {
				return err
			}
			var roles []string
			for _, r := range pki.Roles {
				roles = append(roles, string(r))
			}
			switch {
			case !slices.Contains(roles, role):
				return usageError(fmt.Sprintf("--role %q: want one of %s", role, strings.Join(roles, ", ")))
			case name == "":
				return usageError("--name is missing: the part's name, unique in its role")
			case out == "":
				return usageError("--out DIR is missing: where to write the certificate and its key")
			}
			data, err := g.needData("pki issue")
			if err != nil {
				return err
			}
			authority, err := pki.Open(filepath.Join(data, "pki"))
			if err != nil {
				return err
			}
			if entries, err := os.ReadDir(out); err == nil && len(entries) > 0 {
				return fmt.Errorf("%s is not empty; name a new folder with --out", out)
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("--out: %w; name a new folder", err)
			}
			credentials, err := authority.Issue(pki.Role(role), name, names, lifetime)
			if err != nil {
				return err
			}
			if err := credentials.Save(out); err != nil {
				return err
			}
			if pki.Role(role) == pki.Operator && g.server != "" {
				if err := pki.WriteClientConfig(filepath.Join(out, "client.yaml"), pki.ClientConfig{Server: g.server, Credentials: credentials}); err != nil {
					return err
				}
			}
			return showIssued(cmd, g, credentials, out)
		},
	}
	f := issue.Flags()
	f.StringVar(&role, "role", "", "hub, collector, edge, envoy or operator")
	f.StringVar(&name, "name", "", "the part's name")
	f.StringVar(&out, "out", "", "new or empty folder for the files")
	f.StringArrayVar(&names, "san", nil, "DNS name or IP address that the part is reached by; repeat it for more")
	f.DurationVar(&lifetime, "lifetime", 90*24*time.Hour, "how long the certificate is valid")
	cmd.AddCommand(issue)
	return cmd
}

func showIssued(cmd *cobra.Command, g globals, c pki.Credentials, dir string) error {
	keeper, err := pki.Hold(c, time.Now)
	if err != nil {
		return err
	}
	v := issued{Identity: keeper.Identity().String(), Dir: dir, NotAfter: keeper.NotAfter().UTC(), Files: []string{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		v.Files = append(v.Files, e.Name())
	}
	w := cmd.OutOrStdout()
	switch g.show.Format {
	case show.JSON, show.YAML:
		return show.Document(w, g.show.Format, "Issued", v)
	case show.Names:
		fmt.Fprintln(w, v.Identity)
	default:
		fmt.Fprintf(w, "%s\n%s in %s, until %s\n", show.Clean(v.Identity), strings.Join(v.Files, " "), show.Clean(dir), v.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// Package offline compiles Kubernetes YAML to an Envoy bootstrap without any
// running part: what `chancery compile` does.
//
// It promises that objects go the very way that they go in an install:
// collector's reading and normalising, projector's compile, the live plane's
// answers, projector/envoy's writing; and that whoever is at fault in the input
// costs nobody else their configuration. Output and reports are the caller's to
// show.
package offline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/collector/dir"
	"github.com/chancery-dev/chancery/federation/live"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Input is what a cluster holds. It may hold private keys.
type Input struct {
	Cluster ledger.ClusterName
	// Findings are about what could not be read.
	Findings []ledger.SiteFinding

	objects []*projector.Object
	live    []live.Object
	where   map[ledger.ObjectKey]string
}

// Len returns the number of objects that the compiler is given.
func (in *Input) Len() int { return len(in.objects) }

// Where returns the file that an object is in, "" if it is in none.
func (in *Input) Where(k ledger.ObjectKey) string { return in.where[k] }

// digestKey digests the values of Secrets: nothing offline compares them with
// those of an install.
var digestKey = bytes.Repeat([]byte{1}, 32)

// Read reads files, directories, and standard input for "-". Of an object that
// stands twice the first counts, with a finding. The error is for a path that
// cannot be read at all.
func Read(paths []string, stdin io.Reader, cluster ledger.ClusterName) (*Input, error) {
	if err := cluster.Validate(); err != nil {
		return nil, err
	}
	in := &Input{Cluster: cluster, where: map[ledger.ObjectKey]string{}}
	seen := map[dir.ID]string{}
	n := collector.Normaliser{Cluster: cluster, DigestKey: digestKey}
	var keys []ledger.ObjectKey
	var raws [][]byte
	for _, path := range paths {
		contents, prefix, err := read(path, stdin)
		if err != nil {
			return nil, err
		}
		for _, f := range contents.Report.Findings {
			in.Findings = append(in.Findings, ledger.SiteFinding{Where: join(prefix, f.Where), Message: f.Message})
		}
		for _, o := range contents.Objects {
			where := join(prefix, o.Where)
			if first, twice := seen[o.ID]; twice {
				in.Findings = append(in.Findings, ledger.SiteFinding{
					Where: where, Message: fmt.Sprintf("%s %s/%s stands in %s already, which counts; remove one", o.ID.Kind, o.ID.Namespace, o.ID.Name, first),
				})
				continue
			}
			seen[o.ID] = where
			raw, err := json.Marshal(o.Raw)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
			in.live = append(in.live, live.NewObject(o.ID.Kind, o.ID.Namespace, o.ID.Name, raw))
			normal, err := n.Normalise(o.Raw, where, o.Owner)
			switch {
			case err != nil:
				in.Findings = append(in.Findings, ledger.SiteFinding{Where: where, Message: err.Error()})
			case normal != nil:
				keys, raws = append(keys, normal.Key), append(raws, normal.Data)
				in.where[normal.Key] = where
			}
		}
	}
	in.objects = compile.Objects(keys, raws)
	return in, nil
}

func join(prefix, where string) string {
	if prefix == "" {
		return where
	}
	return filepath.ToSlash(filepath.Join(prefix, filepath.FromSlash(where)))
}

func read(path string, stdin io.Reader) (dir.Contents, string, error) {
	if path == "-" {
		b, err := io.ReadAll(io.LimitReader(stdin, dir.MaxFileBytes+1))
		if err != nil {
			return dir.Contents{}, "", fmt.Errorf("read standard input: %w", err)
		}
		return dir.Parse("-", b), "", nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return dir.Contents{}, "", fmt.Errorf("%w; name a file, a directory, or - for standard input", err)
	}
	if info.IsDir() {
		c, err := dir.Read(path)
		return c, path, err
	}
	f, err := os.Open(path)
	if err != nil {
		return dir.Contents{}, "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, dir.MaxFileBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return dir.Contents{}, "", fmt.Errorf("read %s: %w", path, err)
	}
	return dir.Parse(filepath.ToSlash(path), b), "", nil
}

// Compiled is what became of an input.
type Compiled struct {
	Result   projector.Result
	Reports  []projector.ObjectReport // on every object, in order
	Problems []envoy.Problem          // of our own reference check
	// Live are the problems of endpoints and certificates.
	Live []live.Problem

	compiler  *compile.Compiler
	endpoints map[string]ir.Endpoints
	secrets   map[string]ir.Secret
}

// Compile compiles an input. now is the time that certificates are judged at.
func Compile(in *Input, settings projector.Settings, now time.Time) (*Compiled, error) {
	result, compiler := compile.Full(settings, slices.Values(in.objects), projector.Overlay{})
	out := &Compiled{
		Result: result, Reports: slices.Collect(compiler.Reports()), Problems: envoy.Check(result.Snapshot), compiler: compiler,
		endpoints: map[string]ir.Endpoints{}, secrets: map[string]ir.Secret{},
	}
	needs, err := live.NeedsOf(result.Snapshot)
	if err != nil {
		return nil, err
	}
	plane := live.NewPlane()
	plane.SetNeeds(needs)
	plane.SetObjects(in.Cluster, in.live, false)
	answers := plane.Answers(now)
	out.Live = answers.Problems
	for name, e := range answers.Endpoints {
		out.endpoints[name] = e.Endpoints
	}
	for name, s := range answers.Secrets {
		out.secrets[name] = s.Reveal()
	}
	return out, nil
}

// Static writes a complete bootstrap that needs no control plane. It holds
// private keys. A certificate that is not there is an error.
func (c *Compiled) Static(o envoy.StaticOptions) ([]byte, error) {
	b, err := envoy.BootstrapStatic(c.Result.Snapshot, c.endpoints, c.secrets, o)
	if err != nil && len(c.Live) > 0 {
		var all []string
		for _, p := range c.Live {
			all = append(all, p.String())
		}
		err = fmt.Errorf("%w; %s", err, strings.Join(all, "; "))
	}
	return b, err
}

// Errors counts findings of severity error, what could not be read and what the
// reference check found included.
func (c *Compiled) Errors(in *Input) int {
	n := len(in.Findings) + len(c.Problems)
	for _, r := range c.Reports {
		for _, f := range r.Findings {
			if f.Severity == projector.Error {
				n++
			}
		}
	}
	return n
}

// Resource is one resource of a snapshot for people.
type Resource struct {
	Name    string             `json:"name"`
	Version ledger.Digest      `json:"version"`
	Sources []ledger.ObjectKey `json:"sources,omitempty"`
	Body    json.RawMessage    `json:"body"`
}

// Document is a whole compile for people and programs. It holds no secret.
type Document struct {
	Fingerprint projector.Fingerprint    `json:"fingerprint"`
	Routes      int                      `json:"routes"`
	Resources   map[string][]Resource    `json:"resources"`
	Reports     []projector.ObjectReport `json:"reports"`
	Findings    []ledger.SiteFinding     `json:"findings,omitempty"`
	Problems    []string                 `json:"problems,omitempty"`
}

// Document returns the compile as a document: resources by type, with the
// objects that they come from, and the reports.
func (c *Compiled) Document(in *Input) (Document, error) {
	d := Document{
		Fingerprint: c.Result.Snapshot.Fingerprint(), Routes: c.Result.Routes, Resources: map[string][]Resource{},
		Reports: c.Reports, Findings: in.Findings,
	}
	for _, p := range c.Problems {
		d.Problems = append(d.Problems, p.String())
	}
	for _, p := range c.Live {
		d.Problems = append(d.Problems, p.String())
	}
	for _, t := range projector.ResourceTypes {
		list := []Resource{}
		for r := range c.Result.Snapshot.All(t) {
			b, err := envoy.ToJSON(r, t)
			if err != nil {
				return d, fmt.Errorf("%s %s: %w", t, r.Name, err)
			}
			list = append(list, Resource{Name: r.Name, Version: r.Version, Sources: c.compiler.Sources(t, r.Name), Body: b})
		}
		slices.SortFunc(list, func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
		d.Resources[t.String()] = list
	}
	return d, nil
}

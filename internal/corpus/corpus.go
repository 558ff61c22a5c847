// Package corpus replays recorded behaviour: Kubernetes objects go in, and what a client then saw through Envoy
// must come out again.
//
// A case is a folder: resources.yaml (the objects), probes.json (client actions, each with its recorded
// outcome) and notes.md. No expectation is written in code. For each case the package makes a Stage: the local
// machine dressed up as the case's world, with an echo backend for every upstream address and a loopback address
// for the listeners. Whatever serves the case applies the Stage to Envoy's resources, either to a static bootstrap
// (Static does) or one by one as they are served over xDS; Run then fires the probes and compares.
//
// The package promises that what an expectation mentions is compared exactly, and that whatever it starts has ended
// when the call that started it returns or its Close is called. It leaves compiling and serving to its caller, and it
// compares behaviour only: how a configuration is built is no concern of a case. README.md describes the format.
package corpus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// FolderVariable is the environment variable that names a folder of further cases, which are not in this repository.
const FolderVariable = "CHANCERY_CORPUS"

// A Case is one folder of the corpus.
type Case struct {
	Name    string // the folder's name
	Dir     string // the folder
	Feature string // what the case is about, in one word: the first of notes.md
	Quirk   string // what is arguably a fault of the recorded implementation, or empty
	Probes  []*Probe

	objects []object
}

// ResourcesFile returns the path of the case's Kubernetes objects, a YAML file of many documents.
func (c *Case) ResourcesFile() string { return filepath.Join(c.Dir, "resources.yaml") }

// Load reads every case below dir, sorted by name. A folder without probes.json is no case; a case with a field that
// is not known, or without an expectation, is an error, for it would check less than it says.
func Load(dir string) ([]*Case, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("load the corpus: %w", err)
	}
	var cases []*Case
	for _, e := range entries {
		folder := filepath.Join(dir, e.Name())
		if !e.IsDir() {
			continue
		}
		if _, err := os.Stat(filepath.Join(folder, "probes.json")); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		c, err := loadCase(folder)
		if err != nil {
			return nil, fmt.Errorf("load case %s: %w", e.Name(), err)
		}
		cases = append(cases, c)
	}
	if len(cases) == 0 {
		return nil, fmt.Errorf("load the corpus: no case in %s", dir)
	}
	return cases, nil
}

func loadCase(dir string) (*Case, error) {
	c := &Case{Name: filepath.Base(dir), Dir: dir}
	probes, err := os.ReadFile(filepath.Join(dir, "probes.json"))
	if err != nil {
		return nil, err
	}
	if c.Probes, err = parseProbes(probes); err != nil {
		return nil, fmt.Errorf("probes.json: %w", err)
	}
	resources, err := os.ReadFile(c.ResourcesFile())
	if err != nil {
		return nil, err
	}
	if c.objects, err = parseObjects(resources); err != nil {
		return nil, fmt.Errorf("resources.yaml: %w", err)
	}
	notes, err := os.ReadFile(filepath.Join(dir, "notes.md"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	c.Feature, c.Quirk = parseNotes(string(notes))
	return c, nil
}

func parseProbes(raw []byte) ([]*Probe, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var probes []*Probe
	if err := dec.Decode(&probes); err != nil {
		return nil, err
	}
	if len(probes) == 0 {
		return nil, errors.New("no probe in it")
	}
	for _, p := range probes {
		if p.Expect == nil {
			return nil, fmt.Errorf("probe %q has no expectation", p.Name)
		}
		if _, err := splitURL(p.URL); err != nil {
			return nil, fmt.Errorf("probe %q: %w", p.Name, err)
		}
	}
	return probes, nil
}

// parseNotes reads "feature: title (quirk: text)".
func parseNotes(notes string) (feature, quirk string) {
	line, _, _ := strings.Cut(notes, "\n")
	feature, _, _ = strings.Cut(line, ":")
	if _, rest, ok := strings.Cut(line, "(quirk: "); ok {
		quirk = strings.TrimSuffix(rest, ")")
	}
	return feature, quirk
}

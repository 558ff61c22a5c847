package dir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/chancery-dev/chancery/collector"
)

// MaxFileBytes bounds one file.
const MaxFileBytes = 16 << 20

// ID is an object's identity within a directory.
type ID struct{ Group, Kind, Namespace, Name string }

// Object is one object as it stands in a file. It is immutable.
type Object struct {
	ID ID
	// Raw is the object as decoded from JSON; numbers are json.Number.
	Raw      map[string]any
	Where    string // the file's path relative to the directory, with slashes
	Document int    // in the file, counted from 1
	Owner    string // of the file: a user's name, "" if unknown

	normal *collector.Object // what Site made of it
}

// problem is what is wrong with one document.
type problem struct {
	document int // 0 for the whole file
	text     string
	// The object that the document is about, as far as that can be told; without a name it may be any.
	namespace, name string
}

// filter says what to do with an object: whether it is wanted, or what is wrong with it. It may keep something in it.
type filter func(*Object) (wanted bool, err error)

// parse reads a file's content. Problems are in document order.
func parse(where, owner string, content []byte, keep filter) (objects []*Object, problems []problem) {
	if len(content) > MaxFileBytes {
		return nil, []problem{{text: fmt.Sprintf("larger than %d bytes; split it", MaxFileBytes)}}
	}
	seen := map[ID]int{}
	document := 0
	add := func(raw map[string]any) {
		o := &Object{Raw: raw, Where: where, Document: document, Owner: owner}
		gk, namespace, name, err := collector.Identity(raw)
		if err != nil {
			if gk == (collector.GroupKind{}) || ours(gk.Group) {
				problems = append(problems, problem{document: document, text: err.Error()})
			}
			return
		}
		o.ID = ID{gk.Group, gk.Kind, namespace, name}
		wanted, err := keep(o)
		switch first, twice := seen[o.ID]; {
		case err != nil:
			problems = append(problems, problem{document, err.Error(), namespace, name})
		case !wanted:
		case twice:
			problems = append(problems, problem{document, fmt.Sprintf("%s %s/%s stands in document %d already, which counts; remove one", gk, namespace, name, first), namespace, name})
		default:
			seen[o.ID] = document
			objects = append(objects, o)
		}
	}
	each := func(value any) {
		if err := eachObject(value, 0, add); err != nil {
			problems = append(problems, problem{document: document, text: err.Error()})
		}
	}
	if strings.HasSuffix(where, ".json") {
		d := json.NewDecoder(bytes.NewReader(content))
		d.UseNumber()
		for {
			document++
			var value any
			err := d.Decode(&value)
			if errors.Is(err, io.EOF) {
				return objects, problems
			}
			if err != nil {
				return objects, append(problems, problem{document: document, text: "is not JSON: " + oneLine(err.Error())})
			}
			each(value)
		}
	}
	for _, text := range splitDocuments(content) {
		document++
		value, err := decodeYAML(text)
		if err != nil {
			problems = append(problems, problem{document: document, text: "is not YAML: " + oneLine(err.Error())})
			continue
		}
		each(value)
	}
	return objects, problems
}

// ours reports whether a malformed object of the group is worth a finding.
func ours(group string) bool {
	switch group {
	case "", "getambassador.io", "networking.k8s.io", "discovery.k8s.io":
		return true
	}
	return false
}

// eachObject calls add for an object, or for each one of a List.
func eachObject(value any, depth int, add func(map[string]any)) error {
	if value == nil {
		return nil
	}
	obj, ok := value.(map[string]any)
	if !ok {
		return errors.New("is not an object; a document is a map with apiVersion, kind and metadata")
	}
	kind, _ := obj["kind"].(string)
	items, isList := obj["items"].([]any)
	if !isList || !strings.HasSuffix(kind, "List") {
		if kind == "List" && obj["items"] != nil {
			return errors.New("is a List whose items are not a list")
		}
		add(obj)
		return nil
	}
	if depth > 4 {
		return errors.New("has Lists in Lists in Lists")
	}
	for _, it := range items {
		if err := eachObject(it, depth+1, add); err != nil {
			return err
		}
	}
	return nil
}

// decodeYAML decodes one document. The parser bounds what aliases expand to, and how deep a document nests.
func decodeYAML(text []byte) (value any, err error) {
	defer func() {
		if r := recover(); r != nil {
			value, err = nil, fmt.Errorf("the parser gave up: %v", r)
		}
	}()
	j, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, err
	}
	if len(j) > MaxFileBytes {
		return nil, fmt.Errorf("it expands to %d bytes", len(j))
	}
	d := json.NewDecoder(bytes.NewReader(j))
	d.UseNumber()
	err = d.Decode(&value)
	return value, err
}

// splitDocuments cuts a stream of YAML at its document markers, which stand at the beginning of a line and nowhere
// within a document. Documents of nothing but comments and directives are left out.
func splitDocuments(content []byte) [][]byte {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	var out [][]byte
	var current []byte
	empty := true
	flush := func() {
		if !empty {
			out = append(out, current)
		}
		current, empty = nil, true
	}
	for len(content) > 0 {
		line := content
		if i := bytes.IndexByte(content, '\n'); i >= 0 {
			line = content[:i+1]
		}
		content = content[len(line):]
		if marker := isMarker(line); marker {
			flush()
			line = append([]byte("   "), line[3:]...) // what follows "---" on its line is of the document
		} else if line[0] == '%' && empty {
			continue
		}
		current = append(current, line...)
		if t := bytes.TrimSpace(line); len(t) > 0 && t[0] != '#' {
			empty = false
		}
	}
	flush()
	return out
}

func isMarker(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("---")) && !bytes.HasPrefix(line, []byte("...")) {
		return false
	}
	return len(line) == 3 || line[3] == ' ' || line[3] == '\t' || line[3] == '\r' || line[3] == '\n'
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

package getambassador

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"sigs.k8s.io/yaml"
)

// AnnotationKey is the annotation of a Service or an Ingress that holds
// resources of this package as YAML documents.
const AnnotationKey = Group + "/config"

// maxAnnotationBytes is what Kubernetes allows for all annotations of one
// object; nothing longer is read.
const maxAnnotationBytes = 256 << 10

// Parent is the object that carries an annotation.
type Parent struct {
	Kind, Namespace, Name string
	Labels                map[string]string
}

// origin returns "Kind namespace/name", for messages to people.
func (p Parent) origin() string { return p.Kind + " " + p.Namespace + "/" + p.Name }

// Raw is one resource found in an annotation, in the form that the API server
// would hold: JSON with metadata and spec. It is not yet decoded.
type Raw struct {
	APIVersion, Kind, Namespace, Name string
	// Origin is the parent, as "Kind namespace/name".
	Origin string
	// Document is its place among the annotation's documents, counted from 1
	// and without the empty ones.
	Document int
	// JSON is for [Decode].
	JSON []byte
}

// DocumentProblem says why one document of an annotation is not a resource.
type DocumentProblem struct {
	// Origin is the parent, as "Kind namespace/name".
	Origin string
	// Document is counted as in [Raw]; 0 stands for the whole annotation.
	Document int
	Message  string
}

// String returns "annotation of Kind namespace/name, document N: message".
func (p DocumentProblem) String() string {
	if p.Document == 0 {
		return fmt.Sprintf("annotation of %s: %s", p.Origin, p.Message)
	}
	return fmt.Sprintf("annotation of %s, document %d: %s", p.Origin, p.Document, p.Message)
}

// FromAnnotations reads the text of an annotation. A document may be flat, as
// the annotation's users write it, or have metadata and spec; the namespace
// and the labels default to the parent's. A document that is no resource
// becomes a problem and the others are read all the same. What a resource's
// fields say is for [Decode] to judge.
func FromAnnotations(parent Parent, text string) ([]Raw, []DocumentProblem) {
	if len(text) > maxAnnotationBytes {
		return nil, []DocumentProblem{{Origin: parent.origin(), Message: fmt.Sprintf("it has %d bytes, more than the %d that Kubernetes allows", len(text), maxAnnotationBytes)}}
	}
	var found []Raw
	var problems []DocumentProblem
	n := 0
	for _, document := range splitDocuments(text) {
		value, err := parseDocument(document)
		if err == nil && value == nil {
			continue
		}
		n++
		if err == nil {
			var raw Raw
			if raw, err = expand(parent, value); err == nil {
				raw.Document = n
				found = append(found, raw)
				continue
			}
		}
		problems = append(problems, DocumentProblem{Origin: parent.origin(), Document: n, Message: err.Error()})
	}
	return found, problems
}

// splitDocuments cuts YAML text at its document markers, which stand at the
// start of a line.
func splitDocuments(text string) []string {
	var documents []string
	var current strings.Builder
	for line := range strings.Lines(text) {
		rest, marker := strings.CutPrefix(line, "---")
		if !marker || rest != "" && !strings.ContainsAny(rest[:1], " \t\r\n") {
			current.WriteString(line)
			continue
		}
		documents = append(documents, current.String())
		current.Reset()
		current.WriteString(strings.TrimLeft(rest, " \t"))
	}
	return append(documents, current.String())
}

// parseDocument returns the document's object, or nil if it is empty.
func parseDocument(document string) (map[string]any, error) {
	var value any
	err := yaml.Unmarshal([]byte(document), &value, func(d *json.Decoder) *json.Decoder {
		d.UseNumber()
		return d
	})
	if err != nil {
		return nil, fmt.Errorf("is not YAML: %s", oneLine(err))
	}
	switch v := value.(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return v, nil
	}
	return nil, fmt.Errorf("wants an object, has %s", describe(value))
}

// oneLine keeps a parser's error on one line, without what is said already.
func oneLine(err error) string {
	line := strings.Join(strings.Fields(err.Error()), " ")
	return strings.TrimPrefix(line, "error converting YAML to JSON: ")
}

// expand turns a document into the form that the API server would hold.
func expand(parent Parent, value map[string]any) (Raw, error) {
	apiVersion, _ := value["apiVersion"].(string)
	version, err := CanonicalVersion(apiVersion)
	if err != nil {
		return Raw{}, err
	}
	kind, _ := value["kind"].(string)
	if newObject(kind) == nil {
		return Raw{}, fmt.Errorf("kind %q: %w", shorten(kind), ErrNotOurs)
	}
	object, err := standardForm(value)
	if err != nil {
		return Raw{}, err
	}
	metadata := object["metadata"].(map[string]any)
	if metadata["namespace"] == nil || metadata["namespace"] == "" {
		metadata["namespace"] = parent.Namespace
	}
	if metadata["labels"] == nil && len(parent.Labels) > 0 {
		metadata["labels"] = parent.Labels
	}
	raw := Raw{APIVersion: version, Kind: kind, Origin: parent.origin()}
	if raw.Name, err = text(metadata, "name"); err != nil {
		return Raw{}, err
	}
	if raw.Namespace, err = text(metadata, "namespace"); err != nil {
		return Raw{}, err
	}
	if raw.Name == "" {
		return Raw{}, fmt.Errorf("kind %s: name: is required", kind)
	}
	object["apiVersion"] = version
	if raw.JSON, err = json.Marshal(object); err != nil {
		return Raw{}, fmt.Errorf("%s %s: %w", kind, shorten(raw.Name), err)
	}
	return raw, nil
}

// text returns a string field, empty if it is absent.
func text(m map[string]any, name string) (string, error) {
	s, ok := m[name].(string)
	if !ok && m[name] != nil {
		return "", fmt.Errorf("%s: wants a string, has %s", name, describe(m[name]))
	}
	return s, nil
}

// standardForm returns the document with metadata and spec, whichever form it
// has. Both are objects in what it returns.
func standardForm(value map[string]any) (map[string]any, error) {
	_, hasMetadata := value["metadata"]
	_, hasSpec := value["spec"]
	if hasMetadata || hasSpec {
		object := maps.Clone(value)
		for _, name := range []string{"metadata", "spec"} {
			m, ok := value[name].(map[string]any)
			if !ok && value[name] != nil {
				return nil, fmt.Errorf("%s: wants an object, has %s", name, describe(value[name]))
			}
			object[name] = map[string]any{}
			maps.Copy(object[name].(map[string]any), m)
		}
		return object, nil
	}
	metadata, spec := map[string]any{}, map[string]any{}
	for key, v := range value {
		switch key {
		case "apiVersion", "kind":
		case "name", "namespace", "generation":
			metadata[key] = v
		case "metadata_labels":
			metadata["labels"] = v
		default:
			spec[key] = v
		}
	}
	return map[string]any{"kind": value["kind"], "metadata": metadata, "spec": spec}, nil
}

package show

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// APIVersion is the version of what is written as JSON and YAML. Fields are
// only ever added to it.
const APIVersion = "cli.chancery.dev/v1"

// Format is how something is written.
type Format string

// The formats.
const (
	Tables Format = "table"
	Wide   Format = "wide"
	JSON   Format = "json"
	YAML   Format = "yaml"
	Names  Format = "name"
)

// Formats lists the formats.
var Formats = []Format{Tables, Wide, JSON, YAML, Names}

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	if f := Format(s); slices.Contains(Formats, f) {
		return f, nil
	}
	return "", fmt.Errorf("output format %q: want table, wide, json, yaml or name", s)
}

// Options say how something is written.
type Options struct {
	Format    Format
	Colour    bool // for terminals
	NoHeaders bool // of tables
	// Talk is told that there is nothing to write, where that is so. Nil: nobody is.
	Talk io.Writer
}

// Document writes data as JSON or YAML with its version and kind.
func Document(w io.Writer, f Format, kind string, data any) error {
	b, err := document(kind, data)
	if err != nil {
		return err
	}
	if f == YAML {
		y, err := yaml.JSONToYAML(b)
		if err != nil {
			return err
		}
		_, err = w.Write(y)
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

// Line writes data as one line of JSON with its version and kind, for streams.
func Line(w io.Writer, kind string, data any) error {
	b, err := document(kind, data)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// document puts version and kind before the fields of data, which encodes to a
// JSON object.
func document(kind string, data any) ([]byte, error) {
	var enc bytes.Buffer
	e := json.NewEncoder(&enc)
	e.SetEscapeHTML(false)
	if err := e.Encode(data); err != nil {
		return nil, err
	}
	b := bytes.TrimSpace(enc.Bytes())
	if len(b) < 2 || b[0] != '{' {
		return nil, fmt.Errorf("%s does not encode to an object", kind)
	}
	head := fmt.Sprintf(`{"apiVersion":%q,"kind":%q`, APIVersion, kind)
	if rest := bytes.TrimSpace(b[1:]); rest[0] != '}' {
		head += ","
	}
	return escapeControls(append([]byte(head), b[1:]...)), nil
}

// escapeControls writes the control characters that JSON allows as they are,
// U+007F to U+009F, as escapes: some terminals obey them.
func escapeControls(b []byte) []byte {
	var out []byte
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == 0x7f:
			out = append(out, `\u007f`...)
		case b[i] == 0xc2 && i+1 < len(b) && b[i+1] >= 0x80 && b[i+1] <= 0x9f:
			i++
			out = fmt.Appendf(out, `\u%04x`, b[i])
		default:
			out = append(out, b[i])
		}
	}
	return out
}

// view is one thing in all of its formats.
type view struct {
	kind  string
	data  any
	names []string
	text  func(*strings.Builder)
}

func (v view) write(w io.Writer, o Options) error {
	switch o.Format {
	case JSON, YAML:
		return Document(w, o.Format, v.kind, v.data)
	case Names:
		for _, n := range v.names {
			if _, err := fmt.Fprintln(w, Clean(n)); err != nil {
				return err
			}
		}
		return nil
	default:
		var b strings.Builder
		v.text(&b)
		_, err := io.WriteString(w, b.String())
		return err
	}
}

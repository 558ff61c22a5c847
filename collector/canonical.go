package collector

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/chancery-dev/chancery/ledger"
)

// The limits on one object.
const (
	MaxObjectBytes = 1 << 20 // of its canonical form
	MaxDepth       = 100     // of nested maps and lists
	MaxNameBytes   = 253     // of a name or a namespace, as in Kubernetes
)

// Facts are what an object's metadata says about this version of it. They become attributes of the event; the
// canonical form is without them, so that it changes only when the object does.
type Facts struct {
	UID             string
	ResourceVersion string
	Generation      int64
}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// Identity returns what kind of object obj is and what it is called. Namespaced objects without a namespace are in
// "default". The error says what is missing or malformed.
func Identity(obj map[string]any) (gk GroupKind, namespace, name string, err error) {
	apiVersion, ok := obj["apiVersion"].(string)
	if !ok || apiVersion == "" {
		return gk, "", "", errors.New("apiVersion is missing or not a string")
	}
	kind, ok := obj["kind"].(string)
	if !ok || kind == "" {
		return gk, "", "", errors.New("kind is missing or not a string")
	}
	group, _, found := strings.Cut(apiVersion, "/")
	if !found {
		group = ""
	}
	gk = GroupKind{group, kind}
	if err := checkName("kind", kind); err != nil {
		return gk, "", "", err
	}
	meta, ok := obj["metadata"].(map[string]any)
	if !ok {
		return gk, "", "", fmt.Errorf("%s: metadata is missing or not a map", gk)
	}
	name, ok = meta["name"].(string)
	if !ok || name == "" {
		return gk, "", "", fmt.Errorf("%s: metadata.name is missing or not a string", gk)
	}
	if err := checkName("metadata.name", name); err != nil {
		return gk, "", "", fmt.Errorf("%s: %w", gk, err)
	}
	switch ns := meta["namespace"].(type) {
	case nil:
	case string:
		namespace = ns
	default:
		return gk, "", "", fmt.Errorf("%s %s: metadata.namespace is not a string", gk, name)
	}
	switch {
	case !gk.Namespaced():
		namespace = ""
	case namespace == "":
		namespace = "default"
	}
	if namespace != "" {
		if err := checkName("metadata.namespace", namespace); err != nil {
			return gk, "", "", fmt.Errorf("%s %s: %w", gk, name, err)
		}
	}
	return gk, namespace, name, nil
}

func checkName(field, s string) error {
	if len(s) > MaxNameBytes {
		return fmt.Errorf("%s %q… has %d bytes, at most %d", field, s[:20], len(s), MaxNameBytes)
	}
	if s == "." || s == ".." || s == "_" {
		return fmt.Errorf("%s %q is not a name", field, s)
	}
	for _, r := range s {
		if r <= ' ' || r == 0x7f || r == '/' || r == '%' || r == utf8.RuneError {
			return fmt.Errorf("%s %q holds a character that a name cannot have", field, s)
		}
	}
	return nil
}

// Canonical returns the canonical form of an object, as decoded from JSON or YAML, and its facts: JSON with sorted
// keys and exact numbers, without status and without the metadata that changes by itself (managedFields,
// resourceVersion, generation, selfLink, uid, the last-applied annotation). The apiVersion stays what was stored.
// obj is not changed. Objects out of bounds are refused, with an error that names the object.
func Canonical(obj map[string]any) ([]byte, Facts, error) {
	gk, namespace, name, err := Identity(obj)
	if err != nil {
		return nil, Facts{}, err
	}
	fail := func(err error) ([]byte, Facts, error) {
		return nil, Facts{}, fmt.Errorf("%s %s: %w", gk, qualified(namespace, name), err)
	}
	meta, facts, err := canonicalMetadata(obj["metadata"].(map[string]any), namespace)
	if err != nil {
		return fail(err)
	}
	out := maps.Clone(obj)
	delete(out, "status")
	out["metadata"] = meta
	b, err := appendValue(nil, out, 0)
	if err != nil {
		return fail(err)
	}
	return b, facts, nil
}

func qualified(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

func canonicalMetadata(in map[string]any, namespace string) (map[string]any, Facts, error) {
	var facts Facts
	var err error
	if facts.UID, err = optionalString(in, "uid"); err != nil {
		return nil, Facts{}, err
	}
	if facts.ResourceVersion, err = optionalString(in, "resourceVersion"); err != nil {
		return nil, Facts{}, err
	}
	if facts.Generation, err = optionalInt(in, "generation"); err != nil {
		return nil, Facts{}, err
	}
	meta := maps.Clone(in)
	for _, k := range []string{"managedFields", "resourceVersion", "generation", "selfLink", "uid"} {
		delete(meta, k)
	}
	if meta["creationTimestamp"] == nil {
		delete(meta, "creationTimestamp")
	}
	delete(meta, "namespace")
	if namespace != "" {
		meta["namespace"] = namespace
	}
	for _, field := range []string{"labels", "annotations"} {
		m, err := stringMap(meta[field])
		if err != nil {
			return nil, Facts{}, fmt.Errorf("metadata.%s: %w", field, err)
		}
		delete(m, lastApplied)
		delete(meta, field)
		if len(m) > 0 {
			meta[field] = m
		}
	}
	return meta, facts, nil
}

// stringMap returns a copy of a map of strings.
func stringMap(v any) (map[string]any, error) {
	if v == nil {
		return nil, nil
	}
	in, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not a map")
	}
	for _, k := range slices.Sorted(maps.Keys(in)) {
		if _, ok := in[k].(string); !ok {
			return nil, fmt.Errorf("the value of %q is not a string; put it in quotes", k)
		}
	}
	return maps.Clone(in), nil
}

func optionalString(m map[string]any, field string) (string, error) {
	switch v := m[field].(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	}
	return "", fmt.Errorf("metadata.%s is not a string", field)
}

func optionalInt(m map[string]any, field string) (int64, error) {
	switch v := m[field].(type) {
	case nil:
		return 0, nil
	case int64:
		return v, nil
	case int:
		return int64(v), nil
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), nil
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("metadata.%s is not a whole number", field)
}

var errTooLarge = fmt.Errorf("larger than %d bytes; split it", MaxObjectBytes)

// appendValue appends v in canonical form: keys in byte order, no spaces, integers with all their digits, other
// numbers as the shortest float64 that reads back the same.
func appendValue(b []byte, v any, depth int) ([]byte, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested more than %d deep", MaxDepth)
	}
	if len(b) > MaxObjectBytes {
		return nil, errTooLarge
	}
	var err error
	switch v := v.(type) {
	case nil:
		b = append(b, "null"...)
	case bool:
		b = strconv.AppendBool(b, v)
	case string:
		b, err = appendString(b, v)
	case json.Number:
		b, err = appendNumber(b, string(v))
	case float64:
		b, err = appendFloat(b, v)
	case int64:
		b = strconv.AppendInt(b, v, 10)
	case int:
		b = strconv.AppendInt(b, int64(v), 10)
	case uint64:
		b = strconv.AppendUint(b, v, 10)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, e, depth+1); err != nil {
				return nil, err
			}
		}
		b = append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendString(b, k); err != nil {
				return nil, err
			}
			b = append(b, ':')
			if b, err = appendValue(b, v[k], depth+1); err != nil {
				return nil, err
			}
		}
		b = append(b, '}')
	default:
		err = fmt.Errorf("a value of type %T", v)
	}
	if err != nil {
		return nil, err
	}
	if len(b) > MaxObjectBytes {
		return nil, errTooLarge
	}
	return b, nil
}

func appendString(b []byte, s string) ([]byte, error) {
	if len(s) > MaxObjectBytes {
		return nil, errTooLarge
	}
	if !utf8.ValidString(s) {
		return nil, fmt.Errorf("%.40q is not UTF-8", s)
	}
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < ' ' || c == 0x7f:
			return nil, fmt.Errorf("%.40q holds a control character", s)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"'), nil
}

func appendNumber(b []byte, s string) ([]byte, error) {
	if !strings.ContainsAny(s, ".eE") {
		digits := strings.TrimPrefix(s, "-")
		if digits == "" || strings.Trim(digits, "0123456789") != "" || len(digits) > 1 && digits[0] == '0' || len(digits) > 100 {
			return nil, fmt.Errorf("%.40q is not a number", s)
		}
		if digits == "0" {
			s = "0"
		}
		return append(b, s...), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, fmt.Errorf("the number %.40q is out of range", s)
	}
	return appendFloat(b, f)
}

func appendFloat(b []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, errors.New("a number that is not finite")
	}
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return strconv.AppendInt(b, int64(f), 10), nil
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64), nil
}

// Object is one object as events tell it. It is immutable.
type Object struct {
	Key    ledger.ObjectKey
	Data   []byte // canonical form; facts only for a Secret
	Digest ledger.Digest
	Facts  Facts
	Actor  ledger.Actor
	// Where says where in the site the object is: a file's path relative to the directory, "" for a cluster.
	Where string
	// SecretRefs are the Secrets that the object's TLS settings refer to.
	SecretRefs []ledger.ObjectKey
}

func (o *Object) isSecret() bool { return isSecretKey(o.Key) }

func isSecretKey(k ledger.ObjectKey) bool { return k.Group == "" && k.Kind == "Secret" }

package getambassador

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxDepth bounds how deep untyped values (a Module's config, say) may nest.
const maxDepth = 64

// Decode reads one resource from JSON and returns it in the hub version.
//
// The problems are what there is to say about single fields, warnings
// included, at most a few dozen. The error is nil exactly if the object is
// valid; it wraps [ErrMalformed], [ErrNotOurs] or [ErrInvalid], and then the
// object is nil.
func Decode(raw []byte) (Object, []FieldProblem, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var value map[string]any
	if err := dec.Decode(&value); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if value == nil {
		return nil, nil, fmt.Errorf("%w: it is null", ErrMalformed)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("%w: there is more after it", ErrMalformed)
	}
	return DecodeValue(value)
}

// DecodeValue is [Decode] for JSON that is already parsed, with numbers as
// json.Number, float64 or int64. It neither changes value nor keeps a
// reference to it.
func DecodeValue(value map[string]any) (Object, []FieldProblem, error) {
	apiVersion, _ := value["apiVersion"].(string)
	kind, _ := value["kind"].(string)
	version, err := CanonicalVersion(apiVersion)
	if err != nil {
		return nil, nil, err
	}
	obj := newObject(kind)
	if obj == nil {
		return nil, nil, fmt.Errorf("kind %q: %w", shorten(kind), ErrNotOurs)
	}
	if !hasVersion(kind, version) {
		return nil, nil, fmt.Errorf("kind %s in %s: %w: the kind has no such version", kind, version, ErrNotOurs)
	}
	d := &decoder{legacy: version != APIVersion}
	if d.legacy {
		d.versionName = strings.TrimPrefix(version, Group+"/")
	} else {
		d.versionName = "v3alpha1"
	}
	d.top(obj, value)
	typeMeta := reflect.ValueOf(obj).Elem().FieldByName("TypeMeta")
	typeMeta.Set(reflect.ValueOf(TypeMeta{APIVersion: APIVersion, Kind: kind}))
	problems := d.finish()
	if err := invalid(Describe(obj), problems); err != nil {
		return nil, problems, err
	}
	return obj, problems, nil
}

// hasVersion says whether the kind was published in the canonical version.
func hasVersion(kind, version string) bool {
	switch kind {
	case "Listener":
		return version == APIVersion
	case "Host":
		return version != Group+"/v1"
	}
	return true
}

// decoder collects what there is to say while it fills one object.
type decoder struct {
	legacy      bool // the object is written in v1 or v2
	versionName string
	problems    []FieldProblem
	more        int // problems past maxProblems
	moreErrors  int // those of them that are errors
}

func (d *decoder) report(severity Severity, path fieldPath, format string, args ...any) {
	if len(d.problems) >= maxProblems {
		d.more++
		if severity == Error {
			d.moreErrors++
		}
		return
	}
	d.problems = append(d.problems, FieldProblem{path.String(), fmt.Sprintf(format, args...), severity})
}

func (d *decoder) errorf(path fieldPath, format string, args ...any) {
	d.report(Error, path, format, args...)
}

func (d *decoder) warnf(path fieldPath, format string, args ...any) {
	d.report(Warning, path, format, args...)
}

// wants reports a wrong type.
func (d *decoder) wants(path fieldPath, what string, raw any) {
	d.errorf(path, "wants %s, has %s", what, describe(raw))
}

// finish returns the problems, with a last one that counts those left out.
func (d *decoder) finish() []FieldProblem {
	if d.more == 0 {
		return d.problems
	}
	last := FieldProblem{Message: fmt.Sprintf("and %d more problems, %d of them errors", d.more, d.moreErrors)}
	if d.moreErrors > 0 {
		last.Severity = Error
	}
	return append(d.problems, last)
}

// top decodes metadata and spec. Status is not configuration and is skipped.
func (d *decoder) top(obj Object, value map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(value)) {
		switch key {
		case "apiVersion", "kind", "metadata", "spec", "status":
		default:
			d.unknown(fieldPath{}, key)
		}
	}
	d.metadata(obj.Meta(), value["metadata"])
	spec := value["spec"]
	if spec == nil {
		spec = map[string]any{}
	}
	d.value(field("spec"), spec, specOf(obj), &noChecks)
}

// metadata decodes what [ObjectMeta] holds and passes over the rest.
func (d *decoder) metadata(meta *ObjectMeta, raw any) {
	path := field("metadata")
	m, ok := raw.(map[string]any)
	if !ok {
		if raw == nil {
			d.errorf(path.field("name"), "is required")
			return
		}
		d.wants(path, "an object", raw)
		return
	}
	v := reflect.ValueOf(meta).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		d.value(path.field(name), m[name], v.Field(i), &noChecks)
	}
	if meta.Name == "" && (m["name"] == nil || m["name"] == "") {
		d.errorf(path.field("name"), "is required")
	}
}

func (d *decoder) unknown(path fieldPath, key string) {
	d.warnf(path.field(key), "is not a field of %s: it has no effect", d.versionName)
}

// value decodes raw into dst. A null is as good as absent; after an error dst
// holds the parts that were right.
func (d *decoder) value(path fieldPath, raw any, dst reflect.Value, c *checks) {
	if raw == nil {
		return
	}
	if self, ok := dst.Addr().Interface().(selfDecoder); ok {
		self.decode(d, path, raw)
		return
	}
	switch dst.Kind() {
	case reflect.Pointer:
		elem := reflect.New(dst.Type().Elem())
		d.value(path, raw, elem.Elem(), c)
		dst.Set(elem)
	case reflect.String:
		s, ok := raw.(string)
		if !ok {
			d.wants(path, "a string", raw)
			return
		}
		d.checkString(path, s, c)
		dst.SetString(s)
	case reflect.Bool:
		b, ok := raw.(bool)
		if !ok {
			d.wants(path, "a boolean", raw)
			return
		}
		dst.SetBool(b)
	case reflect.Int:
		n, ok := integer(raw)
		if !ok {
			d.wants(path, "an integer", raw)
			return
		}
		d.checkInt(path, n, c)
		dst.SetInt(n)
	case reflect.Slice:
		d.slice(path, raw, dst, c)
	case reflect.Map:
		d.mapping(path, raw, dst)
	case reflect.Struct:
		d.object(path, raw, dst)
	case reflect.Interface:
		if v, ok := d.untyped(path, raw, 0); ok {
			dst.Set(reflect.ValueOf(v))
		}
	default:
		panic("no decoder for " + dst.Type().String())
	}
}

func (d *decoder) slice(path fieldPath, raw any, dst reflect.Value, c *checks) {
	list, ok := raw.([]any)
	if !ok {
		d.wants(path, "a list", raw)
		return
	}
	if len(list) < c.items {
		d.errorf(path, "wants at least %d item, has none", c.items)
	}
	out := reflect.MakeSlice(dst.Type(), len(list), len(list))
	elem := checks{enum: c.enum, min: c.min, max: c.max}
	for i, item := range list {
		d.element(path.index(i), item, out.Index(i), &elem)
	}
	dst.Set(out)
}

func (d *decoder) mapping(path fieldPath, raw any, dst reflect.Value) {
	m, ok := raw.(map[string]any)
	if !ok {
		d.wants(path, "an object", raw)
		return
	}
	out := reflect.MakeMapWithSize(dst.Type(), len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		elem := reflect.New(dst.Type().Elem()).Elem()
		if elem.Kind() == reflect.Interface {
			v, ok := d.untyped(path.key(key), m[key], 0)
			if ok && v != nil {
				elem.Set(reflect.ValueOf(v))
			}
		} else {
			d.element(path.key(key), m[key], elem, &noChecks)
		}
		out.SetMapIndex(reflect.ValueOf(key), elem)
	}
	dst.Set(out)
	if _, one := dst.Addr().Interface().(exactlyOne); one && len(m) != 1 {
		d.errorf(path, "wants exactly one key, has %d", len(m))
	}
}

// element decodes an item of a list or a map, where a null is not absence.
func (d *decoder) element(path fieldPath, raw any, dst reflect.Value, c *checks) {
	if raw != nil {
		d.value(path, raw, dst, c)
		return
	}
	if self, ok := dst.Addr().Interface().(selfDecoder); ok {
		self.decode(d, path, nil)
		return
	}
	d.wants(path, wanted(dst.Kind()), nil)
}

func (d *decoder) object(path fieldPath, raw any, dst reflect.Value) {
	m, ok := raw.(map[string]any)
	if !ok {
		d.wants(path, "an object", raw)
		return
	}
	schema := schemas[dst.Type()]
	known := schema.hub
	if d.legacy {
		known = schema.legacy
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !known[key] {
			d.unknown(path, key)
		}
	}
	set := 0
	for i := range schema.fields {
		f := &schema.fields[i]
		name := f.nameIn(m, d.legacy)
		if name == "" {
			if f.checks.required || f.checks.requiredHub && !d.legacy {
				d.errorf(path.field(f.nameFor(d.legacy)), "is required")
			}
			continue
		}
		set++
		d.shadowed(path, m, f, name)
		if d.legacy && f.converted {
			continue
		}
		d.value(path.field(name), m[name], dst.Field(f.index), &f.checks)
	}
	if _, one := dst.Addr().Interface().(exactlyOne); one && set != 1 {
		d.errorf(path, "wants exactly one of %s, has %d", fieldNames(schema), set)
	}
	if d.legacy {
		if l, ok := dst.Addr().Interface().(legacyDecoder); ok {
			l.fromV2(d, path, m)
		}
	}
}

// nameIn returns the name by which m sets the field, or "" if it does not.
func (f *fieldSchema) nameIn(m map[string]any, legacy bool) string {
	if !legacy {
		if m[f.name] != nil {
			return f.name
		}
		return ""
	}
	for _, name := range f.legacy {
		if m[name] != nil {
			return name
		}
	}
	return ""
}

// shadowed warns of other names of the field that m sets beside name.
func (d *decoder) shadowed(path fieldPath, m map[string]any, f *fieldSchema, name string) {
	if !d.legacy || len(f.legacy) < 2 {
		return
	}
	for _, other := range f.legacy {
		if other != name && m[other] != nil {
			d.warnf(path.field(other), "is another name of %s, which is set: it has no effect", name)
		}
	}
}

// nameFor returns the field's first name in the version.
func (f *fieldSchema) nameFor(legacy bool) string {
	if legacy && len(f.legacy) > 0 {
		return f.legacy[0]
	}
	return f.name
}

func fieldNames(s *structSchema) string {
	var names []string
	for _, f := range s.fields {
		names = append(names, f.name)
	}
	return strings.Join(names, ", ")
}

func (d *decoder) checkString(path fieldPath, s string, c *checks) {
	if c.enum != nil && !slices.Contains(c.enum, s) {
		d.errorf(path, "wants one of %s, has %q", quoted(c.enum), shorten(s))
	}
	if c.duration {
		if _, err := time.ParseDuration(s); err != nil {
			d.errorf(path, "wants a duration such as \"5s\", has %q", shorten(s))
		}
	}
	if c.scheme {
		switch strings.ToLower(s) {
		case "", "http://", "https://":
		default:
			d.errorf(path, "wants \"http://\", \"https://\" or \"\", has %q", shorten(s))
		}
	}
}

func (d *decoder) checkInt(path fieldPath, n int64, c *checks) {
	if c.enum != nil && !slices.Contains(c.enum, strconv.FormatInt(n, 10)) {
		d.errorf(path, "wants one of %s, has %d", strings.Join(c.enum, ", "), n)
	}
	if n < c.min || n > c.max {
		d.errorf(path, "wants %d to %d, has %d", c.min, c.max, n)
	}
}

// untyped copies a value of no declared type, with numbers as int64 where
// they are integers and float64 elsewhere.
func (d *decoder) untyped(path fieldPath, raw any, depth int) (any, bool) {
	if depth > maxDepth {
		d.errorf(path, "nests deeper than %d levels", maxDepth)
		return nil, false
	}
	switch v := raw.(type) {
	case nil, bool, string:
		return v, true
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			copied, ok := d.untyped(path.index(i), item, depth+1)
			if !ok {
				return nil, false
			}
			out[i] = copied
		}
		return out, true
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			copied, ok := d.untyped(path.key(key), v[key], depth+1)
			if !ok {
				return nil, false
			}
			out[key] = copied
		}
		return out, true
	}
	if n, ok := integer(raw); ok {
		return n, true
	}
	if f, ok := float(raw); ok {
		return f, true
	}
	d.wants(path, "a number in range", raw)
	return nil, false
}

// integer returns a number that has no fraction and fits 64 bits.
func integer(raw any) (int64, bool) {
	switch v := raw.(type) {
	case int64:
		return v, true
	case int:
		return int64(v), true
	case json.Number:
		if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			return n, true
		}
	}
	f, ok := float(raw)
	if !ok || f != math.Trunc(f) || f < -(1<<53) || f > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// float returns a finite number.
func float(raw any) (float64, bool) {
	var f float64
	switch v := raw.(type) {
	case float64:
		f = v
	case json.Number:
		n, err := strconv.ParseFloat(string(v), 64)
		if err != nil {
			return 0, false
		}
		f = n
	default:
		return 0, false
	}
	return f, !math.IsNaN(f) && !math.IsInf(f, 0)
}

// wanted names a kind in a message.
func wanted(k reflect.Kind) string {
	switch k {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "a boolean"
	case reflect.Int:
		return "an integer"
	case reflect.Slice:
		return "a list"
	default:
		return "an object"
	}
}

// describe names a value's type, and shows a scalar, in a message.
func describe(raw any) string {
	switch v := raw.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean " + strconv.FormatBool(v)
	case string:
		return "string " + strconv.Quote(shorten(v))
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return "number " + shorten(fmt.Sprint(raw))
}

func quoted(values []string) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = strconv.Quote(v)
	}
	return strings.Join(out, ", ")
}

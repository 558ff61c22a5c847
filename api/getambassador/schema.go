package getambassador

import (
	"math"
	"reflect"
	"strconv"
	"strings"
)

// structSchema is what the decoder knows of one struct type.
type structSchema struct {
	fields []fieldSchema
	// hub and legacy hold every name that v3alpha1, or v1 and v2, has.
	hub, legacy map[string]bool
}

// fieldSchema is what the struct tags say of one field.
type fieldSchema struct {
	index  int
	name   string
	legacy []string // names in v1 and v2; none if they lack the field
	// converted fields are read by the type's fromV2 in v1 and v2.
	converted bool
	checks    checks
}

// checks is what the published schema asks of a value. For a list of strings
// the enumeration is that of its elements.
type checks struct {
	required, requiredHub bool
	enum                  []string
	min, max              int64
	items                 int
	duration, scheme      bool
}

var noChecks = checks{min: math.MinInt64, max: math.MaxInt64}

// exactlyOne marks types of which exactly one field or key must be set.
type exactlyOne interface{ exactlyOne() }

// selfDecoder marks types that read more shapes than their Go kind says.
type selfDecoder interface {
	decode(d *decoder, path fieldPath, raw any)
}

// legacyDecoder marks structs whose v1 and v2 form means something else than
// the fields of the same name say. fromV2 runs when the fields are decoded.
type legacyDecoder interface {
	fromV2(d *decoder, path fieldPath, raw map[string]any)
}

// schemas holds the schema of every struct type reachable from a kind's spec.
// It is made once and never changes.
var schemas = func() map[reflect.Type]*structSchema {
	all := map[reflect.Type]*structSchema{}
	for _, kind := range Kinds() {
		addSchema(all, specOf(newObject(kind)).Type())
	}
	return all
}()

// specOf returns the addressable Spec field of an object.
func specOf(o Object) reflect.Value { return reflect.ValueOf(o).Elem().FieldByName("Spec") }

// addSchema adds the schema of t, and of the struct types below it.
func addSchema(all map[reflect.Type]*structSchema, t reflect.Type) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		addSchema(all, t.Elem())
		return
	case reflect.Struct:
	default:
		return
	}
	if all[t] != nil {
		return
	}
	s := &structSchema{hub: map[string]bool{}, legacy: map[string]bool{}}
	all[t] = s
	for i := range t.NumField() {
		f := parseField(t.Field(i), i)
		s.fields = append(s.fields, f)
		s.hub[f.name] = true
		for _, name := range f.legacy {
			s.legacy[name] = true
		}
		addSchema(all, t.Field(i).Type)
	}
}

func parseField(sf reflect.StructField, index int) fieldSchema {
	name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
	f := fieldSchema{index: index, name: name, legacy: []string{name}, checks: noChecks}
	switch v2 := sf.Tag.Get("v2"); v2 {
	case "":
	case "-":
		f.legacy = nil
	case "convert":
		f.converted = true
	default:
		f.legacy = strings.Split(v2, "|")
	}
	tag := sf.Tag.Get("check")
	if tag == "" {
		return f
	}
	for check := range strings.SplitSeq(tag, ",") {
		key, value, _ := strings.Cut(check, "=")
		switch key {
		case "required":
			f.checks.required = true
		case "required-v3":
			f.checks.requiredHub = true
		case "enum":
			f.checks.enum = strings.Split(value, "|")
		case "min":
			f.checks.min = mustInt(value)
		case "max":
			f.checks.max = mustInt(value)
		case "items":
			f.checks.items = int(mustInt(value))
		case "duration":
			f.checks.duration = true
		case "scheme":
			f.checks.scheme = true
		default:
			panic("unknown check " + check + " on field " + sf.Name)
		}
	}
	return f
}

func mustInt(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic("bad number in a check tag: " + s)
	}
	return n
}

// addressable returns the value that p points to.
func addressable[T any](p *T) reflect.Value { return reflect.ValueOf(p).Elem() }

package envoy_test

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/chancery-dev/chancery/projector"
)

// leaf is one place in a value: reached by walking, so that it can be emptied
// in a copy.
type leaf struct {
	path  string // "Listeners[0].Chains[0].HTTP.ServerName"
	field string // "HTTP.ServerName": the type's
}

// leaves lists every field of every struct in v, whether empty or not, and
// calls f with an addressable value.
func leaves(v reflect.Value, path string, f func(leaf, reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			leaves(v.Elem(), path, f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			leaves(v.Index(i), fmt.Sprintf("%s[%d]", path, i), f)
		}
	case reflect.Map:
		if v.Type().Elem().Kind() != reflect.Struct {
			return
		}
		for _, k := range v.MapKeys() {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(v.MapIndex(k))
			leaves(e, fmt.Sprintf("%s[%s]", path, k), func(l leaf, field reflect.Value) {
				f(l, field)
				v.SetMapIndex(k, e)
			})
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			l := leaf{path: path + "." + name, field: v.Type().Name() + "." + name}
			f(l, v.Field(i))
			leaves(v.Field(i), l.path, f)
		}
	default: // a leaf
	}
}

func TestFullIsFull(t *testing.T) {
	used := map[string]bool{}
	c := full()
	leaves(reflect.ValueOf(&c).Elem(), "", func(l leaf, v reflect.Value) {
		used[l.field] = used[l.field] || !v.IsZero()
	})
	if len(used) < 200 {
		t.Errorf("only %d fields were found", len(used))
	}
	for field, ok := range used {
		if !ok {
			t.Errorf("no value uses %s", field)
		}
	}
}

// TestEveryFieldHasAnEffect empties each field in turn: the bytes must change,
// or the writer must object.
func TestEveryFieldHasAnEffect(t *testing.T) {
	want, err := write(full())
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	c := full()
	leaves(reflect.ValueOf(&c).Elem(), "", func(leaf, reflect.Value) { count++ })
	tested := 0
	effective := map[string]bool{}
	for i := range count {
		c := full()
		n := 0
		var at leaf
		leaves(reflect.ValueOf(&c).Elem(), "", func(l leaf, v reflect.Value) {
			if n == i && !v.IsZero() {
				at = l
				v.SetZero()
			}
			n++
		})
		if at.path == "" {
			continue
		}
		tested++
		got, err := write(c)
		changed := err != nil || !slices.EqualFunc(got, want, func(a, b projector.Update) bool {
			return a.Name == b.Name && bytes.Equal(a.Resource.Bytes, b.Resource.Bytes)
		})
		effective[at.field] = effective[at.field] || changed
	}
	if tested < 400 {
		t.Errorf("only %d fields were emptied", tested)
	}
	for field, ok := range effective {
		if !ok {
			t.Errorf("emptying %s changes nothing and is no error", field)
		}
	}
}

package getambassador

import (
	"strconv"
	"strings"
)

// fieldPath is where a value stands in its object. It is a chain towards the
// root and becomes text only if there is something to say.
type fieldPath struct {
	parent *fieldPath
	name   string
	isKey  bool // name is a map's key or a list's index
}

// field returns the path of a top-level field.
func field(name string) fieldPath { return fieldPath{name: name} }

func (p fieldPath) field(name string) fieldPath { return fieldPath{parent: &p, name: name} }

func (p fieldPath) key(key string) fieldPath { return fieldPath{parent: &p, name: key, isKey: true} }

func (p fieldPath) index(i int) fieldPath { return p.key(strconv.Itoa(i)) }

// String returns the path as Kubernetes writes it: spec.labels[domain][0].
func (p fieldPath) String() string {
	var steps []fieldPath
	for at := &p; at != nil; at = at.parent {
		steps = append(steps, *at)
	}
	var b strings.Builder
	for i := len(steps) - 1; i >= 0; i-- {
		switch name := shorten(steps[i].name); {
		case name == "" && !steps[i].isKey:
		case steps[i].isKey:
			b.WriteString("[" + name + "]")
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(name)
		}
	}
	return b.String()
}

package envoy

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// walk visits m and every message in it, parents first, extensions included.
// visit may change what it is given; it returns whether it did. walk returns
// whether anything changed, and packs changed extensions again.
func walk(m proto.Message, visit func(proto.Message) (bool, error)) (bool, error) {
	if a, ok := m.(*anypb.Any); ok {
		return walkAny(a, visit)
	}
	changed, err := visit(m)
	if err != nil {
		return changed, err
	}
	each := func(v protoreflect.Value) bool {
		var c bool
		c, err = walk(v.Message().Interface(), visit)
		changed = changed || c
		return err == nil
	}
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				keys := []protoreflect.MapKey{}
				v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool { keys = append(keys, k); return true })
				slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return cmpStrings(a.String(), b.String()) })
				for _, k := range keys {
					if !each(v.Map().Get(k)) {
						return false
					}
				}
			}
		case f.IsList():
			if f.Message() != nil {
				for i := range v.List().Len() {
					if !each(v.List().Get(i)) {
						return false
					}
				}
			}
		case f.Message() != nil:
			return each(v)
		}
		return err == nil
	})
	return changed, err
}

func walkAny(a *anypb.Any, visit func(proto.Message) (bool, error)) (bool, error) {
	inner, err := a.UnmarshalNew()
	if err != nil {
		return false, fmt.Errorf("damaged extension %s: %w", a.TypeUrl, err)
	}
	changed, err := walk(inner, visit)
	if err != nil || !changed {
		return changed, err
	}
	a.Value, err = marshal(inner)
	return true, err
}

func cmpStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

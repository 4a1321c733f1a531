package main

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// schemas makes the schema of each message once. Of a message that is answered
// every field is there; of one that is asked with, only what is required.
type schemas struct {
	enums map[string][]string
	used  map[string]bool // enums that a field has
	made  object          // components/schemas
}

// message returns a reference to the schema of a message.
func (s *schemas) message(m protoreflect.MessageDescriptor, asked bool) object {
	name := string(m.Name())
	if asked && !strings.HasSuffix(name, "Request") {
		name += "Input" // beside the one that is answered
	}
	if _, ok := s.made[name]; !ok {
		s.made[name] = object{} // for messages that hold themselves
		s.made[name] = s.object(m, asked, nil)
	}
	return reference(name)
}

// object is the schema of a message without the fields of skip.
func (s *schemas) object(m protoreflect.MessageDescriptor, asked bool, skip map[string]bool) object {
	properties := object{}
	var required []string
	for i := range m.Fields().Len() {
		fd := m.Fields().Get(i)
		if skip[string(fd.Name())] {
			continue
		}
		properties[string(fd.Name())] = s.field(fd, asked)
		required = append(required, string(fd.Name()))
	}
	o := object{"type": "object", "properties": properties, "additionalProperties": false}
	if text := comment(m); text != "" {
		o["description"] = text
	}
	if !asked && len(required) > 0 {
		o["required"] = required
	}
	return o
}

// body is the schema of a request's body: the message without what the path
// names, or one field of it.
func (s *schemas) body(in protoreflect.MessageDescriptor, r route, inPath map[string]bool) (object, error) {
	if r.Field != "" {
		fd := in.Fields().ByName(protoreflect.Name(r.Field))
		if fd == nil {
			return nil, fmt.Errorf("%s has no field %s", in.Name(), r.Field)
		}
		return s.message(fd.Message(), true), nil
	}
	o := s.object(in, true, inPath)
	if len(r.Required) > 0 {
		o["required"] = r.Required
	}
	s.made[string(in.Name())] = o
	return reference(string(in.Name())), nil
}

// field is the schema of one field.
func (s *schemas) field(fd protoreflect.FieldDescriptor, asked bool) object {
	var o object
	switch {
	case fd.IsMap():
		o = object{"type": "object", "additionalProperties": s.value(fd.MapValue(), asked)}
	case fd.IsList():
		o = object{"type": "array", "items": s.value(fd, asked)}
	default:
		o = s.value(fd, asked)
	}
	key := string(fd.Parent().Name()) + "." + string(fd.Name())
	if values, ok := s.enums[key]; ok {
		o["enum"] = values
		if s.used == nil {
			s.used = map[string]bool{}
		}
		s.used[key] = true
	}
	if fd.HasPresence() {
		if ref, ok := o["$ref"]; ok { // which allows nothing beside it
			o = object{"allOf": []any{object{"$ref": ref}}}
		}
		o["nullable"] = true
	}
	if text := comment(fd); text != "" && o["$ref"] == nil {
		o["description"] = text
	}
	return o
}

// value is the schema of one value of a field's type, as api/jsonwire writes it.
func (s *schemas) value(fd protoreflect.FieldDescriptor, asked bool) object {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return object{"type": "string"}
	case protoreflect.BoolKind:
		return object{"type": "boolean"}
	case protoreflect.Int32Kind:
		return object{"type": "integer", "format": "int32"}
	case protoreflect.Int64Kind:
		return object{"type": "integer", "format": "int64"}
	case protoreflect.BytesKind:
		return object{"type": "string", "format": "byte"}
	case protoreflect.MessageKind:
		if fd.Message().FullName() == "google.protobuf.Timestamp" {
			return object{"type": "string", "format": "date-time"}
		}
		return s.message(fd.Message(), asked)
	}
	panic(fmt.Sprintf("%s: kind %v has no form in this API", fd.FullName(), fd.Kind()))
}

// queryParameter is a field of a request as a parameter; a map is given as
// name=value, once for each name.
func (s *schemas) queryParameter(fd protoreflect.FieldDescriptor, required bool) object {
	p := object{"name": string(fd.Name()), "in": "query", "description": comment(fd), "required": required}
	if fd.IsMap() {
		p["schema"] = object{"type": "array", "items": object{"type": "string", "pattern": "^[^=]+="}}
		p["explode"] = true
		p["description"] = strings.TrimSpace(comment(fd) + " As name=value, once for each name.")
		return p
	}
	p["schema"] = s.value(fd, true)
	return p
}

// comment is what the proto file says of something: above it, or behind it.
func comment(d protoreflect.Descriptor) string {
	at := d.ParentFile().SourceLocations().ByDescriptor(d)
	text := at.LeadingComments
	if strings.TrimSpace(text) == "" {
		text = at.TrailingComments
	}
	return strings.Join(strings.Fields(text), " ")
}

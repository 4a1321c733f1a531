// Package jsonwire writes lehr.v1 messages as the JSON of the REST door and of
// the CLI's --output json: every field of the message is present under its
// proto name in the order of the proto file; what does not apply is null, never
// absent; int64 are numbers; timestamps are RFC 3339 in UTC.
//
// protojson differs in all four points, which is why this exists. Reading uses
// protojson, which accepts these names.
package jsonwire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Marshal returns m on one line.
func Marshal(m proto.Message) ([]byte, error) {
	return appendMessage(nil, m.ProtoReflect())
}

// MarshalIndent returns m indented for people.
func MarshalIndent(m proto.Message) ([]byte, error) {
	line, err := Marshal(m)
	if err != nil {
		return nil, err
	}
	return indent(line)
}

// MarshalList returns the messages as one bare, indented array.
func MarshalList[M proto.Message](list []M) ([]byte, error) {
	out := []byte{'['}
	for i, m := range list {
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = appendMessage(out, m.ProtoReflect()); err != nil {
			return nil, err
		}
	}
	return indent(append(out, ']'))
}

// Unmarshal reads a request. Unknown fields are an error that names them.
func Unmarshal(b []byte, m proto.Message) error {
	return protojson.Unmarshal(b, m)
}

func indent(line []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Indent(&out, line, "", "  "); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func appendMessage(out []byte, m protoreflect.Message) ([]byte, error) {
	if ts, ok := m.Interface().(*timestamppb.Timestamp); ok {
		return appendJSON(out, ts.AsTime().UTC().Format(time.RFC3339Nano))
	}
	out = append(out, '{')
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendQuote(out, string(fd.Name()))
		out = append(out, ':')
		var err error
		if out, err = appendField(out, fd, m); err != nil {
			return nil, fmt.Errorf("%s: %w", fd.FullName(), err)
		}
	}
	return append(out, '}'), nil
}

func appendField(out []byte, fd protoreflect.FieldDescriptor, m protoreflect.Message) ([]byte, error) {
	switch {
	case fd.IsList():
		return appendList(out, fd, m.Get(fd).List())
	case fd.IsMap():
		return appendMap(out, fd, m.Get(fd).Map())
	case fd.HasPresence() && !m.Has(fd):
		return append(out, "null"...), nil
	}
	return appendValue(out, fd, m.Get(fd))
}

func appendList(out []byte, fd protoreflect.FieldDescriptor, list protoreflect.List) ([]byte, error) {
	out = append(out, '[')
	for i := range list.Len() {
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = appendValue(out, fd, list.Get(i)); err != nil {
			return nil, err
		}
	}
	return append(out, ']'), nil
}

// appendMap writes keys in order, so that equal messages are equal bytes.
func appendMap(out []byte, fd protoreflect.FieldDescriptor, m protoreflect.Map) ([]byte, error) {
	keys := make([]string, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k.String())
		return true
	})
	sort.Strings(keys)
	out = append(out, '{')
	for i, k := range keys {
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = appendJSON(out, k); err != nil {
			return nil, err
		}
		out = append(out, ':')
		v := m.Get(protoreflect.ValueOfString(k).MapKey())
		if out, err = appendValue(out, fd.MapValue(), v); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

func appendValue(out []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return appendMessage(out, v.Message())
	case protoreflect.BytesKind:
		return appendJSON(out, base64.StdEncoding.EncodeToString(v.Bytes()))
	case protoreflect.EnumKind, protoreflect.GroupKind:
		return nil, fmt.Errorf("kind %v has no form in this API: states are strings", fd.Kind())
	}
	return appendJSON(out, v.Interface())
}

// appendJSON is encoding/json without HTML escaping: logs are full of < and >.
func appendJSON(out []byte, v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return append(out, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...), nil
}

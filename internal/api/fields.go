package api

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lehr-dev/lehr/internal/errs"
)

// setEntries sets a map of texts from "name=value" each. A name that is given
// twice is refused, since no object has two values for it.
func setEntries(m proto.Message, fd protoreflect.FieldDescriptor, texts []string) error {
	entries := m.ProtoReflect().Mutable(fd).Map()
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		key := protoreflect.ValueOfString(name).MapKey()
		switch {
		case !ok || name == "":
			return errs.New(errs.Invalid, "%q: want name=value", clipName(text)).WithField(string(fd.Name())).WithCode("filter_invalid").
				WithRemedy("write %s=NAME=VALUE, once for each name", fd.Name())
		case !utf8.ValidString(text):
			return errs.New(errs.Invalid, "is not UTF-8").WithField(string(fd.Name())).WithCode("filter_invalid")
		case entries.Has(key):
			return errs.New(errs.Invalid, "%q is given twice", clipName(name)).WithField(string(fd.Name())).WithCode("filter_invalid").
				WithRemedy("give each name once")
		}
		entries.Set(key, protoreflect.ValueOfString(value))
	}
	return nil
}

// setField sets a scalar field from its text in a path or query.
func setField(m proto.Message, fd protoreflect.FieldDescriptor, text string) error {
	name := string(fd.Name())
	var v protoreflect.Value
	switch fd.Kind() {
	case protoreflect.StringKind:
		v = protoreflect.ValueOfString(text)
	case protoreflect.BoolKind:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errs.New(errs.Invalid, "%q: want true or false", clipName(text)).WithField(name)
		}
		v = protoreflect.ValueOfBool(b)
	case protoreflect.Int32Kind:
		n, err := parseInt(name, text, 32)
		if err != nil {
			return err
		}
		v = protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		n, err := parseInt(name, text, 64)
		if err != nil {
			return err
		}
		v = protoreflect.ValueOfInt64(n)
	default:
		return errs.New(errs.Invalid, "cannot be given here").WithField(name)
	}
	m.ProtoReflect().Set(fd, v)
	return nil
}

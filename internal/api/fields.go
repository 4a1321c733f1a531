package api

import (
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lehr-dev/lehr/internal/errs"
)

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

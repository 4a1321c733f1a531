package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// object is a JSON object; encoding/json writes its members in order of their
// names, so that the same input gives the same file.
type object = map[string]any

// about is the head of the document.
const about = "The REST door of Lehr. Each route is a method of the Connect services of the same names, which take the same messages. " +
	"Fields that do not apply are null, never absent; unknown fields and parameters are refused. Durations are Go durations as text, such as " +
	"\"90s\" or \"1h30m\". Routes marked as application/x-ndjson answer one JSON object a line; an error after the first line is the last line, " +
	"in the form of every error."

// document makes the whole document.
func document(t table, find func(string) (protoreflect.Descriptor, error)) (object, error) {
	s := &schemas{enums: t.Enums, made: object{}}
	paths := object{}
	for _, r := range t.Routes {
		op, err := operation(r, s, find)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Route, err)
		}
		method, pattern, _ := strings.Cut(r.Route, " ")
		path := strings.ReplaceAll(pattern, "...}", "}")
		item, ok := paths[path].(object)
		if !ok {
			item = object{}
			paths[path] = item
		}
		item[strings.ToLower(method)] = op
	}
	for key := range t.Enums {
		if !s.used[key] {
			return nil, fmt.Errorf("enums: there is no field %s", key)
		}
	}
	s.made["Error"] = errorSchema()
	return object{
		"openapi": "3.0.3",
		"info":    object{"title": "Lehr", "version": "v1", "description": about, "license": object{"name": "Apache-2.0"}},
		"servers": []any{object{"url": "http://127.0.0.1:5347"}},
		"paths":   paths,
		"components": object{
			"schemas": s.made,
			"securitySchemes": object{
				"key":    object{"type": "apiKey", "in": "header", "name": "X-API-Key"},
				"bearer": object{"type": "http", "scheme": "bearer"},
			},
		},
		"security": []any{object{"key": []any{}}, object{"bearer": []any{}}},
	}, nil
}

// errorSchema is what every error looks like.
func errorSchema() object {
	text := func(of string, nullable bool) object {
		o := object{"type": "string", "description": of}
		if nullable {
			o["nullable"] = true
		}
		return o
	}
	return object{
		"type": "object", "required": []string{"error"}, "additionalProperties": false,
		"properties": object{"error": object{
			"type": "object", "required": []string{"code", "message", "remedy", "field"}, "additionalProperties": false,
			"properties": object{
				"code":    text("stable machine code", false),
				"message": text("what is wrong, the field named", false),
				"remedy":  text("what to do about it", true),
				"field":   text("request field, if one is to blame", true),
			},
		}},
	}
}

var wildcard = regexp.MustCompile(`\{([a-z_]+)(?:\.\.\.)?\}`)

// operation makes one route of the document.
func operation(r route, s *schemas, find func(string) (protoreflect.Descriptor, error)) (object, error) {
	op := object{"operationId": r.RPC}
	if r.ID != "" {
		op["operationId"] = r.ID
	}
	if r.Open {
		op["security"] = []any{}
	}
	status := r.Status
	if status == 0 {
		status = 200
	}
	if r.RPC == "" {
		op["summary"] = r.Summary
		op["responses"] = object{strconv.Itoa(status): openAnswer(r), "default": failure()}
		return op, nil
	}
	found, err := find(r.RPC)
	if err != nil {
		return nil, err
	}
	rpc, ok := found.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is no method", r.RPC)
	}
	op["tags"] = []string{strings.TrimSuffix(string(rpc.Parent().Name()), "Service")}
	op["summary"] = comment(rpc)
	if err := request(op, r, rpc.Input(), s); err != nil {
		return nil, err
	}
	success := answer(r, rpc.Output(), s)
	responses := object{strconv.Itoa(status): success, "default": failure()}
	for code, when := range r.Also {
		same := maps.Clone(success)
		same["description"] = when
		responses[code] = same
	}
	if r.Idempotent {
		replay := maps.Clone(success)
		replay["description"] = "The answer to an earlier request with this Idempotency-Key."
		replay["headers"] = object{"Lehr-Replayed": object{"schema": object{"type": "string", "enum": []string{"true"}}}}
		responses["200"] = replay
	}
	op["responses"] = responses
	return op, nil
}

func openAnswer(r route) object {
	a := object{"description": "success"}
	if !r.Empty {
		a["content"] = object{"application/json": object{"schema": object{"type": "object"}}}
	}
	return a
}

func failure() object {
	return object{
		"description": "An error. 429 has Retry-After, in seconds.",
		"headers":     object{"Retry-After": object{"schema": object{"type": "integer", "minimum": 1}}},
		"content":     object{"application/json": object{"schema": reference("Error")}},
	}
}

func answer(r route, out protoreflect.MessageDescriptor, s *schemas) object {
	a := object{"description": "success"}
	switch {
	case r.Status == 204:
	case r.Download != "":
		a["description"] = r.Download
		a["content"] = object{"application/octet-stream": object{"schema": bytesSchema()}}
	case r.Stream:
		a["description"] = "One object a line; an error after the first one is the last line."
		a["content"] = object{"application/x-ndjson": object{"schema": s.message(out, false)}}
	default:
		a["content"] = object{"application/json": object{"schema": s.message(out, false)}}
	}
	return a
}

func bytesSchema() object { return object{"type": "string", "format": "binary"} }

func reference(name string) object { return object{"$ref": "#/components/schemas/" + name} }

// request adds parameters and body.
func request(op object, r route, in protoreflect.MessageDescriptor, s *schemas) error {
	inPath := map[string]bool{}
	var parameters []any
	for _, m := range wildcard.FindAllStringSubmatch(r.Route, -1) {
		fd := in.Fields().ByName(protoreflect.Name(m[1]))
		if fd == nil {
			return fmt.Errorf("%s has no field %s", in.Name(), m[1])
		}
		inPath[m[1]] = true
		parameters = append(parameters, object{
			"name": m[1], "in": "path", "required": true, "description": comment(fd), "schema": object{"type": "string"},
		})
	}
	for _, p := range r.Parameters {
		parameters = append(parameters, p.object())
	}
	if r.Query {
		for i := range in.Fields().Len() {
			if fd := in.Fields().Get(i); !inPath[string(fd.Name())] {
				parameters = append(parameters, s.queryParameter(fd, slices.Contains(r.Required, string(fd.Name()))))
			}
		}
	}
	if r.Idempotent {
		parameters = append(parameters, object{
			"name": "Idempotency-Key", "in": "header", "description": "A repetition with the same key answers with what the first made.",
			"schema": object{"type": "string", "maxLength": 255},
		})
	}
	if len(parameters) > 0 {
		op["parameters"] = parameters
	}
	switch {
	case r.Upload != "":
		op["requestBody"] = object{"description": r.Upload, "required": true, "content": object{"application/octet-stream": object{"schema": bytesSchema()}}}
	case r.Body:
		schema, err := s.body(in, r, inPath)
		if err != nil {
			return err
		}
		op["requestBody"] = object{"required": len(r.Required) > 0, "content": object{"application/json": object{"schema": schema}}}
	}
	return nil
}

func (p parameter) object() object {
	schema := object{"type": "string"}
	if p.Type != "" {
		schema["type"] = p.Type
	}
	if p.Default != nil {
		schema["default"] = p.Default
	}
	if len(p.Enum) > 0 {
		schema["enum"] = p.Enum
	}
	return object{"name": p.Name, "in": "query", "description": p.Description, "required": p.Required, "schema": schema}
}

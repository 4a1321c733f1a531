// Command openapi writes api/openapi/lehr.v1.json: the description of the REST
// door, from the compiled .proto files on standard input (which bring fields,
// types and comments) and api/openapi/routes.json (which brings the routes).
//
//	buf build -o - | go -C tools run ./openapi
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

func main() {
	if err := run(filepath.Join("..", "api", "openapi"), os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}

func run(folder string, image io.Reader) error {
	b, err := io.ReadAll(image)
	if err != nil {
		return err
	}
	var set descriptorpb.FileDescriptorSet // which a buf image is, with fields of buf's own
	if err := proto.Unmarshal(b, &set); err != nil {
		return fmt.Errorf("standard input is no image of buf: %w", err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return err
	}
	table, err := readTable(filepath.Join(folder, "routes.json"))
	if err != nil {
		return err
	}
	doc, err := document(table, func(name string) (protoreflect.Descriptor, error) {
		return files.FindDescriptorByName(protoreflect.FullName("lehr.v1." + name))
	})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(doc); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "lehr.v1.json"), out.Bytes(), 0o644) //nolint:gosec // a source file
}

// table is routes.json.
type table struct {
	Enums  map[string][]string `json:"enums"` // MESSAGE.FIELD → all values
	Routes []route             `json:"routes"`
}

// route is one route: what the proto files do not say of it.
type route struct {
	Route      string            `json:"route"` // METHOD PATTERN of net/http
	RPC        string            `json:"rpc"`   // the method it is served by; empty: none
	ID         string            `json:"id"`    // where RPC is not unique
	Summary    string            `json:"summary"`
	Status     int               `json:"status"` // of success; 200
	Also       map[string]string `json:"also"`   // further statuses with the same body
	Body       bool              `json:"body"`   // the request message is the body
	Field      string            `json:"field"`  // of the request message, which is the body instead
	Query      bool              `json:"query"`  // the request message is the query
	Required   []string          `json:"required"`
	Parameters []parameter       `json:"parameters"`
	Upload     string            `json:"upload"`   // the body is bytes
	Download   string            `json:"download"` // the answer is bytes
	Stream     bool              `json:"stream"`   // the answer is NDJSON
	Idempotent bool              `json:"idempotent"`
	Open       bool              `json:"open"`  // no key is wanted
	Empty      bool              `json:"empty"` // no body is answered
}

// parameter is one that no message has.
type parameter struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Type        string   `json:"type"`
	Enum        []string `json:"enum"`
	Default     any      `json:"default"`
	Required    bool     `json:"required"`
}

func readTable(name string) (table, error) {
	b, err := os.ReadFile(filepath.Clean(name))
	if err != nil {
		return table{}, err
	}
	var t table
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	return t, dec.Decode(&t)
}

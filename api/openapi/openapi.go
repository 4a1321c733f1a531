// Package openapi holds the description of the REST door under /v1, as served
// at /v1/openapi.json. It is made from the .proto files and routes.json by
// `make generate`; tests of internal/api hold it to the routes and answers of a
// real server.
package openapi

import _ "embed"

//go:embed lehr.v1.json
var document []byte

// JSON returns the description, OpenAPI 3.0. The caller must not change it.
func JSON() []byte { return document }

package api_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

func TestTemplates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.build("web")
	w.build("web:v2")
	var page struct {
		Templates  []object
		NextCursor *string `json:"next_cursor"`
	}
	w.call("GET", "/v1/templates?name=web", "").ok(200, &page)
	if len(page.Templates) != 2 || page.NextCursor != nil {
		t.Errorf("templates = %+v, want two versions of web", page)
	}
	w.call("GET", "/v1/templates?name=web&limit=1", "").ok(200, &page)
	if len(page.Templates) != 1 || page.NextCursor == nil {
		t.Errorf("first page = %+v, want one and a cursor", page)
	}
	w.call("GET", "/v1/templates?cursor=x", "").fails(400, "cursor_invalid")
	w.call("GET", "/v1/templates/web:v9", "").fails(404, "template_not_found")
	if a := w.call("GET", "/v1/templates/Not%20A%20Name", ""); a.status != 400 {
		t.Errorf("GET of a bad name = %d %s, want 400", a.status, a.body)
	}
	if a := w.call("DELETE", "/v1/templates/", ""); a.status != 400 {
		t.Errorf("DELETE without a name = %d %s, want 400", a.status, a.body)
	}
	w.call("DELETE", "/v1/templates/web:v2", "").ok(200, nil)
	w.call("GET", "/v1/templates/web:v2", "").fails(404, "template_not_found")
	w.call("GET", "/v1/templates/web", "").ok(200, nil)
	w.call("DELETE", "/v1/templates/web", "").ok(200, nil)
	w.call("DELETE", "/v1/templates/web", "").fails(404, "template_not_found")
}

func TestTemplateInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.build("web")
	var s object
	w.call("POST", "/v1/sandboxes", `{"template":"web"}`).ok(201, &s)
	w.call("DELETE", "/v1/templates/web", "").fails(409, "in_use")
	w.call("DELETE", "/v1/sandboxes/"+s["id"].(string), "").ok(200, nil)
	w.call("DELETE", "/v1/templates/web", "").ok(200, nil)
}

func TestImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var made object
	w.call("POST", "/v1/templates/import?kind=tar", "a tar").ok(201, &made)
	if name, _ := made["name"].(string); !strings.HasPrefix(name, "upload-") {
		t.Errorf("imported template = %v, want upload-…", made)
	}
	w.call("POST", "/v1/templates/import", "a tar").fails(400, "invalid")
	w.call("POST", "/v1/templates/import?kind=zip", "a tar").fails(400, "invalid")
	w.call("POST", "/v1/templates/import?kind=tar&name=x", "a tar").fails(400, "parameter_unknown")

	up := w.client(w.user).Templates.Import(t.Context())
	for _, m := range []*lehrv1.ImportTemplateRequest{{Kind: "tar"}, {Data: []byte("a ")}, {Data: []byte("tar")}} {
		if err := up.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	res, err := up.CloseAndReceive()
	if err != nil || res.Msg.GetName() != made["name"] {
		t.Errorf("Import over Connect = %v, %v, want the same template", res, err)
	}
	if _, err := w.client(w.user).Templates.Import(t.Context()).CloseAndReceive(); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("an empty stream = %v, want invalid_argument", err)
	}
}

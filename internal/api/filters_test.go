package api_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/sdk"
)

// ids returns the ids of a list's page.
func ids(page object, list string) []string {
	var all []string
	elements, _ := page[list].([]any)
	for _, e := range elements {
		o, _ := e.(map[string]any)
		id, _ := o["id"].(string)
		all = append(all, id)
	}
	return all
}

func TestMetadataAndFilters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var box, b object
	w.call("POST", "/v1/sandboxes", `{"template":"minimal","metadata":{"job":"7","odd":"a=b &\n"}}`).ok(201, &box)
	w.call("POST", "/v1/sandboxes", `{"template":"minimal","metadata":{"job":"8"}}`).ok(201, nil)
	w.call("POST", "/v1/builds", `{"name":"web","recipe":["RUN true","LABEL lang=go"],"skip_pre_post":true,"metadata":{"job":"7"}}`).ok(201, &b)
	w.call("GET", "/v1/builds/"+b["id"].(string)+"/logs?follow=true", "").ok(200, nil)
	for path, want := range map[string]string{
		"/v1/sandboxes?metadata=job=7":                                            box["id"].(string),
		"/v1/sandboxes?metadata=job=7&metadata=" + url.QueryEscape("odd=a=b &\n"): box["id"].(string),
		"/v1/sandboxes?metadata=job=7&metadata=odd=x":                             "",
		"/v1/sandboxes?metadata=job=7&state=running&template=minimal":             box["id"].(string),
		"/v1/sandboxes?metadata=job=7&template=minimal:other":                     "",
		"/v1/sandboxes?state=killed":                                              "",
		"/v1/builds?metadata=job=7":                                               b["id"].(string),
		"/v1/builds?metadata=job=8":                                               "",
		"/v1/builds?metadata=job=7&name=web&status=success":                       b["id"].(string),
		"/v1/templates?labels=lang=go":                                            b["template_id"].(string),
		"/v1/templates?labels=lang=go&type=snapshot":                              "",
		"/v1/templates?labels=lang=go&type=base&name=web":                         b["template_id"].(string),
		"/v1/templates?labels=lang=c":                                             "",
	} {
		var page object
		w.call("GET", path, "").ok(200, &page)
		list := strings.TrimPrefix(strings.SplitN(path, "?", 2)[0], "/v1/")
		if got := strings.Join(ids(page, list), " "); got != want {
			t.Errorf("GET %s = %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"/v1/sandboxes/" + box["id"].(string), "/v1/builds/" + b["id"].(string)} {
		var got object
		w.call("GET", path, "").ok(200, &got)
		if m, _ := got["metadata"].(map[string]any); m["job"] != "7" {
			t.Errorf("GET %s has metadata %v, want job 7", path, got["metadata"])
		}
	}
	var tpl object
	w.call("GET", "/v1/templates/web", "").ok(200, &tpl)
	if labels, _ := tpl["labels"].(map[string]any); labels["lang"] != "go" || tpl["image_digest"] == nil || tpl["build_id"] != b["id"] || tpl["disk_mb"] != 5120.0 {
		t.Errorf("template = %v, want label, digest, build and disk", tpl)
	}
}

func TestFilterRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	nine := ""
	for _, c := range "abcdefghi" {
		nine += "&metadata=" + string(c) + "=1"
	}
	for path, code := range map[string]string{
		"/v1/sandboxes?metadata=job":                                               "filter_invalid",
		"/v1/sandboxes?metadata==x":                                                "filter_invalid",
		"/v1/sandboxes?metadata=%ff=x":                                             "filter_invalid",
		"/v1/sandboxes?metadata=a=1&metadata=a=2":                                  "filter_invalid",
		"/v1/sandboxes?metadata=a%20b=1":                                           "metadata_invalid",
		"/v1/sandboxes?all=true" + nine:                                            "filter_too_large",
		"/v1/builds?status=pending" + nine:                                         "filter_too_large",
		"/v1/templates?type=base" + strings.ReplaceAll(nine, "metadata", "labels"): "filter_too_large",
		"/v1/sandboxes?state=odd":                                                  "invalid",
		"/v1/sandboxes?template=a/b":                                               "template_invalid",
		"/v1/sandboxes?template=a%20b":                                             "template_invalid",
		"/v1/templates?type=odd":                                                   "invalid",
		"/v1/templates?metadata=a=1":                                               "parameter_unknown",
		"/v1/sandboxes?limit=1&limit=2":                                            "parameter_repeated",
		"/v1/sandboxes?limit=201":                                                  "invalid",
		"/v1/sandboxes?limit=-1":                                                   "invalid",
		"/v1/sandboxes?cursor=" + unknownBuild:                                     "cursor_invalid",
		"/v1/builds?cursor=" + unknownSandbox:                                      "cursor_invalid",
		"/v1/templates?cursor=" + unknownKey:                                       "cursor_invalid",
		"/v1/sandboxes?cursor=" + unknownSandbox[:20]:                              "cursor_invalid",
	} {
		w.call("GET", path, "").fails(400, code)
	}
	w.call("POST", "/v1/sandboxes", `{"template":"minimal","metadata":{"a b":"1"}}`).fails(400, "metadata_invalid")
	w.call("POST", "/v1/builds", `{"name":"web","recipe":["RUN true"],"metadata":{"":"1"}}`).fails(400, "metadata_invalid")
	w.call("POST", "/v1/sandboxes", `{"template":"minimal"}`, "Idempotency-Key", strings.Repeat("k", 256)).fails(400, "idempotency_key_invalid")
	w.call("POST", "/v1/sandboxes?wait=perhaps", `{"template":"minimal"}`).fails(400, "invalid")
	w.call("POST", "/v1/sandboxes?weight=1", `{"template":"minimal"}`).fails(400, "parameter_unknown")
	w.call("POST", "/v1/sandboxes", `{"template":"minimal","memory_mb":1}`).fails(400, "size_invalid")
}

func TestIdempotentSandbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var first, again object
	w.call("POST", "/v1/sandboxes", `{"template":"minimal"}`, "Idempotency-Key", "k").ok(201, &first)
	a := w.call("POST", "/v1/sandboxes", `{"template":"minimal"}`, "Idempotency-Key", "k")
	a.ok(200, &again)
	if again["id"] != first["id"] || a.header.Get("Lehr-Replayed") != "true" {
		t.Errorf("a repeated create = %v %v, want the first, marked", again, a.header)
	}
	w.call("POST", "/v1/sandboxes", `{"template":"minimal","env":{"A":"1"}}`, "Idempotency-Key", "k").fails(409, "idempotency_mismatch")
	res, err := w.client(w.user).Sandboxes.Create(t.Context(), connect.NewRequest(&lehrv1.CreateSandboxRequest{Template: "minimal", IdempotencyKey: "k"}))
	if err != nil || res.Msg.GetId() != first["id"] || res.Header().Get("Lehr-Replayed") != "true" {
		t.Errorf("a repeated create over Connect = %v, %v, want the first, marked", res, err)
	}
	w.call("POST", "/v1/sandboxes?wait=false", `{"template":"minimal"}`).ok(202, &again)
	if again["state"] != "creating" {
		t.Errorf("a create that does not wait = %v, want creating", again)
	}
	b := w.call("POST", "/v1/builds", `{"name":"web","recipe":["RUN true"]}`, "Idempotency-Key", "k")
	b.ok(201, nil)
	b = w.call("POST", "/v1/builds", `{"name":"web","recipe":["RUN true"]}`, "Idempotency-Key", "k")
	b.ok(200, nil)
	if b.header.Get("Lehr-Replayed") != "true" {
		t.Errorf("a repeated build has headers %v, want Lehr-Replayed", b.header)
	}
}

func TestSetTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.sandbox()
	path := "/v1/sandboxes/" + id + "/timeout"
	var got object
	w.call("POST", path, `{"timeout":"1h"}`).ok(200, &got)
	at, err := time.Parse(time.RFC3339, got["expires_at"].(string))
	if err != nil || time.Until(at) < 50*time.Minute {
		t.Errorf("expires_at = %v, want in an hour", got["expires_at"])
	}
	w.call("POST", path, `{"timeout":"0"}`).ok(200, &got)
	if got["expires_at"] != nil {
		t.Errorf("expires_at = %v, want null", got["expires_at"])
	}
	w.call("POST", path, `{}`).fails(400, "duration_invalid")
	w.call("POST", path, `{"timeout":"-1s"}`).fails(400, "duration_invalid")
	w.call("POST", path, `{"timeout":"100000h"}`).fails(400, "timeout_invalid")
	w.call("POST", "/v1/sandboxes/"+unknownSandbox+"/timeout", `{"timeout":"1h"}`).fails(404, "sandbox_not_found")
	w.call("POST", "/v1/sandboxes/x/timeout", `{"timeout":"1h"}`).fails(400, "id_invalid")
	w.call("DELETE", "/v1/sandboxes/"+id, "").ok(200, nil)
	w.call("POST", path, `{"timeout":"1h"}`).fails(409, "sandbox_ended")
}

func TestTag(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.build("web")
	w.build("web:v2")
	w.sandbox() // makes minimal
	var got, prod object
	w.call("POST", "/v1/templates/web:v2/tag", `{"tag":"Prod"}`).ok(200, &got)
	w.call("GET", "/v1/templates/web:prod", "").ok(200, &prod)
	if got["version"] != prod["version"] || prod["version"] == nil {
		t.Errorf("web:prod = %v, want %v", prod["version"], got["version"])
	}
	w.call("POST", "/v1/templates/"+got["id"].(string)+"/tag", `{"tag":"prod"}`).ok(200, &got)
	w.call("GET", "/v1/templates/web", "").ok(200, &prod)
	if got["version"] != prod["version"] {
		t.Errorf("a template's id names %v, want its default %v", got["version"], prod["version"])
	}
	for body, code := range map[string]string{`{}`: "tag_invalid", `{"tag":"a/b"}`: "tag_invalid", `{"tag":"a:b"}`: "tag_invalid", `{"tog":"x"}`: "body_invalid"} {
		w.call("POST", "/v1/templates/web/tag", body).fails(400, code)
	}
	w.call("POST", "/v1/templates/web:v9/tag", `{"tag":"x"}`).fails(404, "template_not_found")
	w.call("POST", "/v1/templates/minimal/tag", `{"tag":"x"}`).fails(403, "platform_template")
	res, err := w.client(w.admin).Templates.Tag(t.Context(), connect.NewRequest(&lehrv1.TagTemplateRequest{Name: "web", Tag: "x"}))
	if d := sdk.ErrorDetail(err); d.GetCode() != "template_not_found" {
		t.Errorf("Tag of another team's template = %v, %v, want not found", res, err)
	}
}

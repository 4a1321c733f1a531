package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/api/jsonwire"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/httpkit"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/sandbox"
)

// registrar takes routes, as http.ServeMux does.
type registrar interface {
	HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request))
}

// rest adds the routes under /v1, each over the Connect method of its name. Each
// is described in api/openapi/routes.json.
func (d *door) rest(mux registrar) {
	r := routes{mux: mux, door: d}
	handle(r, "POST /v1/builds", http.StatusCreated, d.builds.Create, none, body)
	handle(r, "GET /v1/builds", http.StatusOK, d.builds.List, query)
	handle(r, "GET /v1/builds/{id}", http.StatusOK, d.builds.Get, none, path)
	handle(r, "POST /v1/builds/{id}/cancel", http.StatusOK, d.builds.Cancel, none, path)
	mux.HandleFunc("GET /v1/builds/{id}/logs", d.restLogs)

	handle(r, "GET /v1/templates", http.StatusOK, d.templates.List, query)
	handle(r, "GET /v1/templates/{name...}", http.StatusOK, d.templates.Get, none, path)
	handle(r, "DELETE /v1/templates/{name...}", http.StatusOK, d.templates.Remove, none, path)
	handle(r, "POST /v1/templates/{name}/tag", http.StatusOK, d.templates.Tag, none, body, path)
	mux.HandleFunc("POST /v1/templates/import", d.restImport)

	mux.HandleFunc("POST /v1/sandboxes", d.restCreateSandbox)
	handle(r, "GET /v1/sandboxes", http.StatusOK, d.sandboxes.List, query)
	handle(r, "GET /v1/sandboxes/{id}", http.StatusOK, d.sandboxes.Get, none, path)
	handle(r, "DELETE /v1/sandboxes/{id}", http.StatusOK, d.sandboxes.Kill, none, path)
	handle(r, "POST /v1/sandboxes/{id}/timeout", http.StatusOK, d.sandboxes.SetTimeout, none, body, path)
	mux.HandleFunc("POST /v1/sandboxes/{id}/exec", d.restExec)
	mux.HandleFunc("GET /v1/sandboxes/{id}/files", d.restReadFile)
	mux.HandleFunc("PUT /v1/sandboxes/{id}/files", d.restWriteFile)

	handle(r, "POST /v1/keys", http.StatusCreated, d.keys.Create, none, body)
	handle(r, "GET /v1/keys", http.StatusOK, d.keys.List, query)
	handle(r, "DELETE /v1/keys/{id}", http.StatusOK, d.keys.Revoke, query, path)

	handle(r, "GET /v1/team", http.StatusOK, d.teams.Get, none)
	handle(r, "GET /v1/teams", http.StatusOK, d.teams.List, query)
	handle(r, "GET /v1/teams/{name}", http.StatusOK, d.teams.Get, none, path)
	handle(r, "PUT /v1/teams/{name}/limits", http.StatusOK, d.teams.SetLimits, none, limitsBody, path)

	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		httpkit.WriteError(w, errs.New(errs.NotFound, "there is no %s %s", clipName(r.Method), clipName(r.URL.Path)).WithCode("route_unknown").
			WithRemedy("the routes are listed in docs/api.md"))
	})
}

// binder fills a request message from an HTTP request.
type binder func(w http.ResponseWriter, r *http.Request, m proto.Message) error

// routes is where handle adds to.
type routes struct {
	mux  registrar
	door *door
}

// handle serves a Connect method as a REST route.
func handle[Req, Res any, PReq interface {
	*Req
	proto.Message
}, PRes interface {
	*Res
	proto.Message
}](to routes, route string, status int, method func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), bind ...binder,
) {
	d := to.door
	to.mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
		var msg Req
		for _, b := range bind {
			if err := b(w, r, PReq(&msg)); err != nil {
				d.fail(w, r, err)
				return
			}
		}
		req := connect.NewRequest(&msg)
		req.Header().Set(idempotencyHeader, r.Header.Get(idempotencyHeader))
		res, err := method(r.Context(), req)
		if err != nil {
			d.fail(w, r, err)
			return
		}
		code := status
		if res.Header().Get(replayedHeader) != "" {
			w.Header().Set(replayedHeader, "true")
			code = http.StatusOK
		}
		d.answer(w, r, code, PRes(res.Msg))
	})
}

func (d *door) fail(w http.ResponseWriter, r *http.Request, err error) {
	httpkit.LogError(r.Context(), d.log, r.Method+" "+r.URL.Path, err)
	httpkit.WriteError(w, err)
}

func (d *door) answer(w http.ResponseWriter, r *http.Request, status int, m proto.Message) {
	b, err := jsonwire.Marshal(m)
	if err != nil {
		d.fail(w, r, errs.Wrap(err, errs.Internal, "api.answer", "the answer cannot be encoded"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that is gone gets nothing
}

// body reads the request's JSON; an empty body is an empty message.
func body(w http.ResponseWriter, r *http.Request, m proto.Message) error {
	b, err := httpkit.ReadBody(w, r, maxRequest)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return errs.New(errs.Invalid, "the body is larger than %d bytes", tooLarge.Limit).WithCode("body_too_large")
	case err != nil:
		return errs.Wrap(err, errs.Invalid, "api.body", "the body could not be read")
	case len(b) == 0:
		return nil
	}
	if err := jsonwire.Unmarshal(b, m); err != nil {
		return errs.New(errs.Invalid, "the body does not fit: %v", err).WithCode("body_invalid").WithRemedy("compare the field names with docs/api.md")
	}
	return nil
}

// path fills the fields that the route's wildcards name.
func path(_ http.ResponseWriter, r *http.Request, m proto.Message) error {
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if v := r.PathValue(string(fields.Get(i).Name())); v != "" {
			if err := setField(m, fields.Get(i), v); err != nil {
				return err
			}
		}
	}
	return nil
}

// none refuses every parameter.
func none(_ http.ResponseWriter, r *http.Request, _ proto.Message) error { return only(r) }

// only refuses parameters of other names.
func only(r *http.Request, names ...string) error {
	for name := range r.URL.Query() {
		if !slices.Contains(names, name) {
			return unknownParameter(name)
		}
	}
	return nil
}

func unknownParameter(name string) error {
	return errs.New(errs.Invalid, "is not a parameter here").WithField(clipName(name)).WithCode("parameter_unknown").
		WithRemedy("the parameters of each route are listed in docs/api.md")
}

// query fills fields from the query string; unknown names are refused. Maps
// are filled by name=value and may be given again, other fields may not.
func query(_ http.ResponseWriter, r *http.Request, m proto.Message) error {
	fields := m.ProtoReflect().Descriptor().Fields()
	for name, values := range r.URL.Query() {
		fd := fields.ByTextName(name)
		var err error
		switch {
		case fd == nil || fd.IsList():
			return unknownParameter(name)
		case fd.IsMap():
			err = setEntries(m, fd, values)
		case len(values) > 1:
			err = errs.New(errs.Invalid, "is given %d times", len(values)).WithField(name).WithCode("parameter_repeated").
				WithRemedy("give it once")
		default:
			err = setField(m, fd, values[0])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// restCreateSandbox is Create with the choice not to wait.
func (d *door) restCreateSandbox(w http.ResponseWriter, r *http.Request) {
	m := &lehrv1.CreateSandboxRequest{}
	err := only(r, "wait")
	wait := true
	if err == nil {
		wait, err = waitParameter(r)
	}
	if err == nil {
		err = body(w, r, m)
	}
	var box lehr.Sandbox
	var created bool
	if err == nil {
		box, created, err = d.sandboxes.create(r.Context(), m, r.Header.Get(idempotencyHeader), !wait)
	}
	if err != nil {
		d.fail(w, r, err)
		return
	}
	status := http.StatusCreated
	switch {
	case !created:
		w.Header().Set(replayedHeader, "true")
		status = http.StatusOK
	case !wait:
		status = http.StatusAccepted
	}
	d.answer(w, r, status, d.sandboxes.whole(r.Context(), box))
}

func waitParameter(r *http.Request) (bool, error) {
	given := r.URL.Query().Get("wait")
	if given == "" {
		return true, nil
	}
	wait, err := strconv.ParseBool(given)
	if err != nil {
		return false, errs.New(errs.Invalid, "%q: want true or false", clipName(given)).WithField("wait")
	}
	return wait, nil
}

func (d *door) restLogs(w http.ResponseWriter, r *http.Request) {
	m := &lehrv1.BuildLogsRequest{}
	err := query(w, r, m)
	if err == nil {
		err = path(w, r, m)
	}
	if err != nil {
		d.fail(w, r, err)
		return
	}
	out := &ndjson{w: w}
	err = d.builds.eachLine(r.Context(), m, func(lines []*lehrv1.LogLine) error {
		for _, l := range lines {
			if err := out.add(l); err != nil {
				return err
			}
		}
		return out.flush()
	})
	d.endStream(w, r, out, err)
}

func (d *door) restExec(w http.ResponseWriter, r *http.Request) {
	m := &lehrv1.ExecRequest{}
	err := only(r)
	if err == nil {
		err = body(w, r, m)
	}
	if err == nil {
		err = path(w, r, m)
	}
	if err != nil {
		d.fail(w, r, err)
		return
	}
	out := &ndjson{w: w}
	err = d.sandboxes.exec(r.Context(), m, func(e *lehrv1.ExecResponse) error {
		if err := out.add(e); err != nil {
			return err
		}
		return out.flush()
	})
	d.endStream(w, r, out, err)
}

// endStream answers an error that came before the first line properly, and one
// that came later as a last line, because the status is gone.
func (d *door) endStream(w http.ResponseWriter, r *http.Request, out *ndjson, err error) {
	switch {
	case err != nil && !out.begun:
		d.fail(w, r, err)
	case err != nil:
		httpkit.LogError(r.Context(), d.log, r.Method+" "+r.URL.Path, err)
		_ = json.NewEncoder(w).Encode(httpkit.Body(err)) // a client that is gone gets nothing
		_ = out.flush()
	case !out.begun:
		out.begin()
	}
}

func (d *door) restImport(w http.ResponseWriter, r *http.Request) {
	if err := only(r, "kind"); err != nil {
		d.fail(w, r, err)
		return
	}
	res, err := d.templates.importFrom(r.Context(), r.URL.Query().Get("kind"), upload{r.Body})
	if err != nil {
		d.fail(w, r, err)
		return
	}
	d.answer(w, r, http.StatusCreated, res.Msg)
}

func (d *door) restReadFile(w http.ResponseWriter, r *http.Request) {
	f, err := restFile(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	begun := false
	err = d.sandboxes.service.ReadFile(r.Context(), f, writerFunc(func(b []byte) error {
		if !begun {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("X-Content-Type-Options", "nosniff")
		}
		begun = true
		_, err := w.Write(b)
		return err
	}))
	switch {
	case err != nil && begun:
		httpkit.LogError(r.Context(), d.log, r.Method+" "+r.URL.Path, err)
		panic(http.ErrAbortHandler) // cut the connection: a short file must not look whole
	case err != nil:
		d.fail(w, r, err)
	case !begun:
		w.WriteHeader(http.StatusOK)
	}
}

func (d *door) restWriteFile(w http.ResponseWriter, r *http.Request) {
	f, err := restFile(r)
	if err == nil {
		err = d.sandboxes.service.WriteFile(r.Context(), f, upload{r.Body})
	}
	if err != nil {
		d.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func restFile(r *http.Request) (sandbox.FileParams, error) {
	if err := only(r, "path", "user"); err != nil {
		return sandbox.FileParams{}, err
	}
	q := r.URL.Query()
	return fileParams(r.Context(), r.PathValue("id"), q.Get("user"), q.Get("path"))
}

// ndjson writes messages as lines and sends them on at flush.
type ndjson struct {
	w     http.ResponseWriter
	begun bool
}

func (n *ndjson) begin() {
	n.begun = true
	n.w.Header().Set("Content-Type", "application/x-ndjson")
	n.w.WriteHeader(http.StatusOK)
}

func (n *ndjson) add(m proto.Message) error {
	if !n.begun {
		n.begin()
	}
	b, err := jsonwire.Marshal(m)
	if err != nil {
		return err
	}
	_, err = n.w.Write(append(b, '\n'))
	return err
}

func (n *ndjson) flush() error { return http.NewResponseController(n.w).Flush() }

// parseInt is strconv.ParseInt with the field named in the error.
func parseInt(field, s string, bits int) (int64, error) {
	n, err := strconv.ParseInt(s, 10, bits)
	if err != nil {
		return 0, errs.New(errs.Invalid, "%q is not a number", clipName(s)).WithField(field)
	}
	return n, nil
}

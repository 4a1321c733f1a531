package api

import (
	"context"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
)

// SetTimeout sets a sandbox's time-to-live.
func (s *sandboxes) SetTimeout(context.Context, *connect.Request[lehrv1.SetSandboxTimeoutRequest]) (*connect.Response[lehrv1.Sandbox], error) {
	return nil, errs.New(errs.Unsupported, "the time-to-live cannot be changed yet")
}

// Tag makes a tag point to a version.
func (t *templates) Tag(context.Context, *connect.Request[lehrv1.TagTemplateRequest]) (*connect.Response[lehrv1.Template], error) {
	return nil, errs.New(errs.Unsupported, "tags cannot be moved yet")
}

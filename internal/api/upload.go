package api

import (
	"errors"
	"io"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/internal/errs"
)

// upload reads what a client sends; a client that breaks off is no fault of
// ours, and what came so far is not the whole.
type upload struct{ r io.Reader }

func (u upload) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = uploadBroken(err)
	}
	return n, err
}

// uploadBroken says why nothing more can be received.
func uploadBroken(err error) error {
	var ce *connect.Error
	if errors.As(err, &ce) && ce.Code() == connect.CodeResourceExhausted {
		return errs.Wrap(err, errs.Invalid, "api.upload", "a message is larger than 4 MiB").WithCode("body_too_large").
			WithRemedy("send the data in smaller messages")
	}
	return errs.Wrap(err, errs.Cancelled, "api.upload", "the upload was broken off").WithCode("upload_broken")
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/image/pack"
	"github.com/lehr-dev/lehr/sdk"
)

// uploadChunk is how much of a base one message carries, in bytes.
const uploadChunk = 1 << 20

// uploadBase turns --base into the name of a template: a local folder, tar or
// OCI layout is read here and uploaded, since the server opens no path that a
// caller names; anything else is a template's name already.
func (a *app) uploadBase(ctx context.Context, c *sdk.Client, base string) (string, error) {
	if !pack.IsLocal(base) {
		return base, nil
	}
	warn := func(text string) { fmt.Fprintln(a.env.Stderr, "lehr: warning: "+clean(text)) }
	kind, r, err := pack.Open(ctx, base, warn)
	if err != nil {
		return "", err
	}
	defer r.Close()
	fmt.Fprintf(a.env.Stderr, "uploading the base %s\n", base)
	t, err := importTemplate(ctx, c, string(kind), r)
	if err != nil {
		return "", err
	}
	return t.GetName() + ":" + t.GetTags()[0], nil
}

func importTemplate(ctx context.Context, c *sdk.Client, kind string, r io.Reader) (*lehrv1.Template, error) {
	// A reader that breaks must cut the upload, or the server takes what it has.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := c.Templates.Import(ctx)
	err := stream.Send(&lehrv1.ImportTemplateRequest{Kind: kind})
	buf := make([]byte, uploadChunk)
	for err == nil {
		n, rerr := r.Read(buf)
		if n > 0 {
			err = stream.Send(&lehrv1.ImportTemplateRequest{Data: buf[:n]})
		}
		if errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil {
			return nil, rerr
		}
	}
	res, rerr := stream.CloseAndReceive() // says why a send failed
	if rerr != nil {
		return nil, rerr
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return res.Msg, nil
}

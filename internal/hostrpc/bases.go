package hostrpc

import (
	"context"

	"connectrpc.com/connect"

	hostv1 "github.com/lehr-dev/lehr/api/gen/host/v1"
	"github.com/lehr-dev/lehr/internal/agent"
)

func registryOut(r agent.RegistryImage) *hostv1.RegistryImage {
	return &hostv1.RegistryImage{
		Reference: r.Reference,
		Auth:      &hostv1.RegistryAuth{Username: r.Auth.Username, Password: r.Auth.Password, Token: r.Auth.Token},
	}
}

func registryIn(m *hostv1.RegistryImage) agent.RegistryImage {
	a := m.GetAuth()
	return agent.RegistryImage{
		Reference: m.GetReference(),
		Auth:      agent.RegistryAuth{Username: a.GetUsername(), Password: a.GetPassword(), Token: a.GetToken()},
	}
}

func resolvedOut(r agent.ResolvedImage) *hostv1.ResolvedImage {
	return &hostv1.ResolvedImage{Reference: r.Reference, Config: configOut(r.Config), Template: r.Template}
}

// ResolveImage asks the host's registries what a reference means.
func (c *Client) ResolveImage(ctx context.Context, r agent.RegistryImage) (agent.ResolvedImage, error) {
	m, err := call(ctx, "ResolveImage", c.rpc.ResolveImage, registryOut(r))
	if err != nil {
		return agent.ResolvedImage{}, err
	}
	return agent.ResolvedImage{Reference: m.GetReference(), Config: configIn(m.GetConfig()), Template: m.GetTemplate()}, nil
}

// PullImage makes an image of a registry's on the host.
func (c *Client) PullImage(ctx context.Context, r agent.RegistryImage) (agent.Image, error) {
	m, err := call(ctx, "PullImage", c.rpc.PullImage, registryOut(r))
	if err != nil {
		return agent.Image{}, err
	}
	return imageIn(m), nil
}

func (s *server) ResolveImage(ctx context.Context, req *connect.Request[hostv1.RegistryImage]) (*connect.Response[hostv1.ResolvedImage], error) {
	return answer(resolvedOut)(s.agent.ResolveImage(ctx, registryIn(req.Msg)))
}

func (s *server) PullImage(ctx context.Context, req *connect.Request[hostv1.RegistryImage]) (*connect.Response[hostv1.Image], error) {
	return answer(imageOut)(s.agent.PullImage(ctx, registryIn(req.Msg)))
}

// PullProgress asks how far a pull has come.
func (c *Client) PullProgress(ctx context.Context, reference string) (agent.PullProgress, error) {
	m, err := call(ctx, "PullProgress", c.rpc.PullProgress, &hostv1.PullProgressRequest{Reference: reference})
	if err != nil {
		return agent.PullProgress{}, err
	}
	return agent.PullProgress{
		Layers: m.GetLayers(), LayersDone: m.GetLayersDone(), Bytes: m.GetBytes(), BytesDone: m.GetBytesDone(),
	}, nil
}

func (s *server) PullProgress(ctx context.Context, req *connect.Request[hostv1.PullProgressRequest]) (*connect.Response[hostv1.PullProgressResponse], error) {
	return answer(progressOut)(s.agent.PullProgress(ctx, req.Msg.GetReference()))
}

func progressOut(p agent.PullProgress) *hostv1.PullProgressResponse {
	return &hostv1.PullProgressResponse{Layers: p.Layers, LayersDone: p.LayersDone, Bytes: p.Bytes, BytesDone: p.BytesDone}
}

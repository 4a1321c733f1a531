package oci

import (
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// imageConfig translates an image's configuration. Maps come out sorted by key.
func imageConfig(c v1.Config) lehr.ImageConfig {
	out := lehr.ImageConfig{
		User:       c.User,
		Workdir:    c.WorkingDir,
		Entrypoint: c.Entrypoint,
		Cmd:        c.Cmd,
		Shell:      c.Shell,
		Exposed:    slices.Sorted(maps.Keys(c.ExposedPorts)),
	}
	for _, pair := range c.Env {
		if name, value, _ := strings.Cut(pair, "="); name != "" {
			out.Env = append(out.Env, lehr.EnvVar{Name: name, Value: value})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
		out.Labels = append(out.Labels, lehr.EnvVar{Name: key, Value: c.Labels[key]})
	}
	return out
}

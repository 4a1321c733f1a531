package oci

import (
	"maps"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Bounds of a configuration. Every sandbox of a template carries it, and Linux
// takes no longer variables and arguments.
const (
	maxWords    = 1000      // variables, labels, ports, arguments of one kind
	maxWord     = 128 << 10 // bytes of one
	maxAllWords = 1 << 20   // bytes of all
	maxUser     = 512
	maxWorkdir  = 4095
)

// checkConfig refuses a configuration that no sandbox could be given.
func checkConfig(c v1.Config) error {
	total := 0
	for kind, words := range map[string][]string{
		"variables": c.Env, "entrypoint words": c.Entrypoint, "command words": c.Cmd, "shell words": c.Shell,
		"ports": slices.Collect(maps.Keys(c.ExposedPorts)), "labels": slices.Collect(maps.Keys(c.Labels)),
		"values of labels": slices.Collect(maps.Values(c.Labels)), "users": {c.User}, "working directories": {c.WorkingDir},
	} {
		if len(words) > maxWords {
			return badConfig("%d %s, more than %d", len(words), kind, maxWords)
		}
		for _, w := range words {
			if total += len(w); len(w) > maxWord || total > maxAllWords {
				return badConfig("%s that are too long", kind)
			}
			if strings.ContainsRune(w, 0) {
				return badConfig("%s with a zero byte", kind)
			}
		}
	}
	switch {
	case len(c.User) > maxUser || strings.ContainsAny(c.User, "\n\r\t "):
		return badConfig("the user %q", clip(c.User))
	case len(c.WorkingDir) > maxWorkdir:
		return badConfig("a working directory of %d bytes", len(c.WorkingDir))
	}
	return nil
}

func badConfig(format string, args ...any) error {
	return errs.New(errs.Invalid, "the configuration of the image has "+format, args...).WithCode("image_config_invalid")
}

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
	if out.Workdir != "" {
		out.Workdir = path.Clean("/" + out.Workdir)
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

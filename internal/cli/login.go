package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/internal/image/pack"
	"github.com/lehr-dev/lehr/internal/recipe"
)

// loginFlags say with which login the base's registry is asked. None of them
// is a secret: others on this machine read command lines.
type loginFlags struct {
	user                      string
	passwordStdin, tokenStdin bool
	dockerConfig              string
}

func (f *loginFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.user, "registry-user", "", "user at the registry of the base, with --registry-password-stdin")
	fs.BoolVar(&f.passwordStdin, "registry-password-stdin", false, "read the user's password from standard input")
	fs.BoolVar(&f.tokenStdin, "registry-token-stdin", false, "read a token of the base's registry from standard input")
	fs.StringVar(&f.dockerConfig, "docker-config", "", "take the login from this Docker configuration, such as ~/.docker/config.json")
}

// maxLogin bounds a password or token, in bytes.
const maxLogin = 64 << 10

// check refuses flags that cannot go together, before anything is read: what
// is on standard input may be a secret.
func (l loginFlags) check(recipeFile string) error {
	given := 0
	for _, one := range []bool{l.passwordStdin, l.tokenStdin, l.dockerConfig != ""} {
		if one {
			given++
		}
	}
	switch {
	case given > 1:
		return usage("--registry-password-stdin, --registry-token-stdin and --docker-config exclude each other")
	case (l.user != "") != l.passwordStdin:
		return usage("--registry-user and --registry-password-stdin go together")
	case (l.passwordStdin || l.tokenStdin) && recipeFile == "-":
		return usage("standard input cannot be the recipe and the login; use --docker-config, or name the recipe with -f FILE")
	}
	return nil
}

// registryLogin returns the login that the flags name, nil for none.
func (a *app) registryLogin(ctx context.Context, f *buildFlags, parsed recipe.Recipe) (*lehrv1.RegistryAuth, error) {
	l := f.login
	if !l.passwordStdin && !l.tokenStdin && l.dockerConfig == "" {
		return nil, nil
	}
	host, err := baseRegistry(f, parsed)
	if err != nil {
		return nil, err
	}
	if l.dockerConfig != "" {
		return dockerLogin(l.dockerConfig, host)
	}
	b, err := a.readStdin(ctx, maxLogin+1)
	if err != nil {
		return nil, err
	}
	secret := strings.TrimRight(string(b), "\r\n")
	if secret == "" || len(secret) > maxLogin {
		return nil, usage("standard input holds no login, or too long a one")
	}
	if l.tokenStdin {
		return &lehrv1.RegistryAuth{Token: secret}, nil
	}
	return &lehrv1.RegistryAuth{Username: l.user, Password: secret}, nil
}

// baseRegistry is the registry that the build's base would come from.
func baseRegistry(f *buildFlags, parsed recipe.Recipe) (string, error) {
	if pack.IsLocal(f.base) {
		return "", usage("--base %s comes from no registry, so it needs no login", f.base)
	}
	args, err := pairs("build-arg", f.args)
	if err != nil {
		return "", err
	}
	base, err := parsed.Base(f.base, "", args)
	if err != nil {
		return "", err
	}
	if base.Image.Registry == "" {
		return "", usage("the base %s comes from no registry, so it needs no login", base)
	}
	return base.Image.Registry, nil
}

func dockerLogin(path, host string) (*lehrv1.RegistryAuth, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "config.json")
	}
	login, found, err := config.DockerLogin(path, host)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, usage("%s has no login for %s", path, host)
	}
	return &lehrv1.RegistryAuth{Username: login.Username, Password: login.Password, Token: login.Token}, nil
}

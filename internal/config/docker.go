package config

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// dockerConfig is what matters of Docker's config.json.
type dockerConfig struct {
	Auths       map[string]dockerAuth `json:"auths"`
	CredsStore  string                `json:"credsStore"`
	CredHelpers map[string]string     `json:"credHelpers"`
}

type dockerAuth struct {
	Auth          string `json:"auth"` // base64 of user:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// DockerLogin returns the login that a Docker configuration file holds for a
// registry, named as in lehr.ImageRef; found is false where it has none.
// Errors: Invalid for what is no such file; Unsupported where the login is in a
// credential helper or an identity token. They quote nothing of the file.
func DockerLogin(path, host string) (login RegistryLogin, found bool, err error) {
	b, err := readSmall(path, maxDockerConfig)
	if err != nil {
		return login, false, dockerError(errs.Invalid, "%s cannot be read: %w", path, err)
	}
	var c dockerConfig
	if json.Unmarshal(b, &c) != nil { // its error may quote a password
		return login, false, dockerError(errs.Invalid, "%s is not the JSON of a Docker configuration", path)
	}
	for key, a := range c.Auths {
		if dockerHost(key) != host {
			continue
		}
		login, err := a.login(path, host)
		if err != nil || login != (RegistryLogin{}) {
			return login, err == nil, err
		}
		found = true // an empty entry says that a helper has it
	}
	for key := range c.CredHelpers {
		found = found || dockerHost(key) == host
	}
	if found {
		return login, false, dockerError(errs.Unsupported, "%s leaves the login for %s to a credential helper, which is not supported", path, host)
	}
	return login, false, nil
}

func (a dockerAuth) login(path, host string) (RegistryLogin, error) {
	switch {
	case a.RegistryToken != "":
		return RegistryLogin{Token: a.RegistryToken}, nil
	case a.IdentityToken != "":
		return RegistryLogin{}, dockerError(errs.Unsupported, "%s has an identity token for %s, which is not supported", path, host)
	case a.Username != "" && a.Password != "":
		return RegistryLogin{Username: a.Username, Password: a.Password}, nil
	case a.Auth == "":
		return RegistryLogin{}, nil
	}
	plain, err := base64.StdEncoding.DecodeString(a.Auth)
	user, password, found := strings.Cut(strings.TrimRight(string(plain), "\x00"), ":")
	if err != nil || !found || user == "" {
		return RegistryLogin{}, dockerError(errs.Invalid, "%s has a damaged login for %s", path, host)
	}
	return RegistryLogin{Username: user, Password: password}, nil
}

// dockerHost is the registry that a key of "auths" means: a host, or a URL.
func dockerHost(key string) string {
	if _, rest, found := strings.Cut(key, "://"); found {
		key = rest
	}
	key, _, _ = strings.Cut(key, "/")
	host, err := lehr.ParseRegistry(key)
	if err != nil {
		return ""
	}
	return host
}

func dockerError(kind errs.Kind, format string, args ...any) error {
	return errs.New(kind, format, args...).WithCode("docker_config_invalid").
		WithRemedy("write user name and password into \"auths\" of the file, or give the login another way")
}

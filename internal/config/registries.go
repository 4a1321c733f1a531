package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// Registries is the registries file: how the host reaches registries, with
// which logins, and what stands in for their images.
type Registries struct {
	Hosts        map[string]Registry // by HOST[:PORT] as in lehr.ImageRef
	DockerConfig string              // path of a Docker config.json with logins; empty: none
	OnlyListed   bool                // registries that Hosts does not name are refused
	Aliases      []Alias
}

// Registry is what the file says about one registry.
type Registry struct {
	Username     string
	PasswordFile string // absolute; with Username
	TokenFile    string // absolute; instead of the two
	PlainHTTP    bool   // spoken to without encryption
	Private      bool   // may have a private, loopback or link-local address
	Mirror       string // HOST[:PORT] that is asked first; "" is none
}

// Alias is one image that something of ours stands in for. Exactly one of
// Template and Layout is set.
type Alias struct {
	Image    lehr.ImageRef // without digest
	Template string        // reference of a template
	Layout   string        // absolute path of an OCI image layout
	Name     string        // of the image in Layout; empty: it has only one
}

// RegistryLogin is a login at a registry: user name and password, or a token.
type RegistryLogin struct{ Username, Password, Token string }

// Bounds of what is read here.
const (
	maxRegistriesFile = 1 << 20
	maxSecretFile     = 64 << 10
	maxDockerConfig   = 8 << 20
)

// registriesFile is the file as written.
type registriesFile struct {
	Registries   map[string]registryEntry `json:"registries"`
	DockerConfig string                   `json:"docker_config"`
	OnlyListed   bool                     `json:"only_listed"`
	Aliases      map[string]string        `json:"aliases"`
}

type registryEntry struct {
	Username     string `json:"username"`
	PasswordFile string `json:"password_file"`
	TokenFile    string `json:"token_file"`
	PlainHTTP    bool   `json:"plain_http"`
	Private      bool   `json:"private"`
	Mirror       string `json:"mirror"`
}

// ReadRegistries reads the registries file; relative paths in it count from
// its folder. The error is Invalid with code "registries_file_invalid" and
// names all problems, or says why the file cannot be read.
func ReadRegistries(path string) (Registries, error) {
	b, err := readSmall(path, maxRegistriesFile)
	if err != nil {
		return Registries{}, registriesError("%s cannot be read: %w", path, err)
	}
	var f registriesFile
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return Registries{}, registriesError("%s is not the JSON of a registries file: %w", path, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Registries{}, registriesError("%s has something after its JSON", path)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return Registries{}, registriesError("%s: %w", path, err)
	}
	c := registriesCheck{dir: filepath.Dir(abs)}
	r := c.all(f)
	if len(c.problems) > 0 {
		return Registries{}, registriesError("%s: %s", path, strings.Join(c.problems, "; "))
	}
	return r, nil
}

func registriesError(format string, args ...any) error {
	return errs.New(errs.Invalid, format, args...).WithCode("registries_file_invalid").WithField("registries").
		WithRemedy("see \"Registries\" in docs/operations.md")
}

// registriesCheck collects what is wrong with a file.
type registriesCheck struct {
	dir      string
	problems []string
}

func (c *registriesCheck) fail(format string, args ...any) {
	c.problems = append(c.problems, errs.New(errs.Invalid, format, args...).Message)
}

func (c *registriesCheck) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

func (c *registriesCheck) all(f registriesFile) Registries {
	r := Registries{Hosts: map[string]Registry{}, DockerConfig: c.path(f.DockerConfig), OnlyListed: f.OnlyListed}
	for _, name := range slices.Sorted(maps.Keys(f.Registries)) {
		host, err := lehr.ParseRegistry(name)
		if err != nil {
			c.fail("%v", err)
			continue
		}
		if _, twice := r.Hosts[host]; twice {
			c.fail("registry %s is there twice", host)
		}
		r.Hosts[host] = c.host(host, f.Registries[name])
	}
	for _, name := range slices.Sorted(maps.Keys(f.Aliases)) {
		if a, ok := c.alias(name, f.Aliases[name]); ok {
			r.Aliases = append(r.Aliases, a)
		}
	}
	return r
}

func (c *registriesCheck) host(host string, e registryEntry) Registry {
	r := Registry{
		Username: e.Username, PasswordFile: c.path(e.PasswordFile), TokenFile: c.path(e.TokenFile),
		PlainHTTP: e.PlainHTTP, Private: e.Private,
	}
	if (e.Username == "") != (e.PasswordFile == "") {
		c.fail("registry %s: username and password_file go together", host)
	}
	if e.TokenFile != "" && e.Username != "" {
		c.fail("registry %s: token_file stands instead of username and password_file", host)
	}
	if e.Mirror != "" {
		mirror, err := lehr.ParseRegistry(e.Mirror)
		if err != nil {
			c.fail("registry %s: mirror: %v", host, err)
		}
		if mirror == host {
			c.fail("registry %s is its own mirror", host)
		}
		r.Mirror = mirror
	}
	return r
}

func (c *registriesCheck) alias(name, target string) (Alias, bool) {
	ref, err := lehr.ParseImageRef(name)
	if err == nil && ref.Digest != "" {
		err = errors.New("an alias stands for a name and tag, not for a digest")
	}
	if err != nil {
		c.fail("alias %q: %v", name, err)
		return Alias{}, false
	}
	a := Alias{Image: ref}
	kind, value, _ := strings.Cut(target, ":")
	switch kind {
	case "template":
		if _, err := lehr.ParseRef(value); err != nil {
			c.fail("alias %q: %v", name, err)
		}
		a.Template = value
	case "oci":
		// A name behind the path is what follows the last colon, if that is no path.
		if i := strings.LastIndexByte(value, ':'); i >= 0 && !strings.Contains(value[i:], "/") {
			value, a.Name = value[:i], value[i+1:]
		}
		if value == "" {
			c.fail("alias %q: oci: names no path", name)
		}
		a.Layout = c.path(value)
	default:
		c.fail("alias %q: %q: want template:NAME[:TAG] or oci:PATH[:NAME]", name, target)
	}
	return a, true
}

// Alias returns what stands in for an image, by name and tag.
func (r Registries) Alias(ref lehr.ImageRef) (Alias, bool) {
	ref.Digest = ""
	i := slices.IndexFunc(r.Aliases, func(a Alias) bool { return a.Image == ref })
	if i < 0 {
		return Alias{}, false
	}
	return r.Aliases[i], true
}

// Login returns the host's own login for a registry: the one that the file
// names, else that of the Docker configuration, else an empty one. Its files
// are read each time. Errors: Invalid, which never quotes what a file holds.
func (r Registries) Login(host string) (RegistryLogin, error) {
	h := r.Hosts[host]
	switch {
	case h.TokenFile != "":
		token, err := readSecret(h.TokenFile)
		return RegistryLogin{Token: token}, err
	case h.PasswordFile != "":
		password, err := readSecret(h.PasswordFile)
		return RegistryLogin{Username: h.Username, Password: password}, err
	case r.DockerConfig != "":
		login, _, err := DockerLogin(r.DockerConfig, host)
		return login, err
	}
	return RegistryLogin{}, nil
}

func readSecret(path string) (string, error) {
	b, err := readSmall(path, maxSecretFile)
	if err != nil {
		return "", registriesError("the login in %s cannot be read: %w", path, err)
	}
	secret := strings.TrimRight(string(b), "\r\n")
	if secret == "" || strings.ContainsAny(secret, "\r\n\x00") {
		return "", registriesError("the login in %s is empty or has several lines", path)
	}
	return secret, nil
}

// readSmall reads a file of at most so many bytes.
func readSmall(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = errs.New(errs.Invalid, "it has more than %d bytes", most)
	}
	return b, err
}

// registries returns the absolute path of a registries file that can be read.
func (p *problems) registries(path string) string {
	if path == "" {
		return ""
	}
	abs, err := filepath.Abs(path)
	if err == nil {
		_, err = ReadRegistries(abs)
	}
	if err != nil {
		p.add("registries", "%v", err)
	}
	return abs
}

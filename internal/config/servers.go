// Package config is how roles and the command line are configured: typed
// structs filled from flags, then LEHR_* variables, with every problem reported
// at once, and the files by which a local server makes itself known.
package config

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Server is what a running `lehr up` tells the command line of the same user.
type Server struct {
	URL     string    `json:"url"`
	Key     string    `json:"key"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

// ServersDir returns $XDG_STATE_HOME/lehr/servers, with the default of the XDG
// base directory specification, which wants a relative path ignored. Without
// HOME, as under a service manager, the user's home folder is looked up.
func ServersDir(getenv func(string) string) string {
	state := getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) {
		state = filepath.Join(home(getenv("HOME")), ".local", "state")
	}
	return filepath.Join(state, "lehr", "servers")
}

func home(given string) string {
	if filepath.IsAbs(given) {
		return given
	}
	if u, err := user.Current(); err == nil && filepath.IsAbs(u.HomeDir) {
		return u.HomeDir
	}
	return "/"
}

// WriteServer stores s as <host>_<port>.json, readable by the owner alone, and
// returns the path. The file appears whole or not at all.
func WriteServer(dir, addr string, s Server) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", errs.New(errs.Invalid, "address %q: want HOST:PORT", addr)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", errs.Wrap(err, errs.Unavailable, "config.WriteServer", "the state folder cannot be made")
	}
	b, err := json.Marshal(s)
	if err != nil {
		return "", errs.Wrap(err, errs.Internal, "config.WriteServer", "cannot encode")
	}
	path := filepath.Join(dir, strings.ReplaceAll(host, ":", "-")+"_"+port+".json")
	if err := WritePrivate(path, b); err != nil {
		return "", errs.Wrap(err, errs.Unavailable, "config.WriteServer", "the server's file cannot be written")
	}
	return path, nil
}

// FindServer returns the entry for url, or with an empty url the newest one
// whose process is alive. NotFound says how to start a server.
func FindServer(dir, url string, alive func(pid int) bool) (Server, error) {
	entries := readServers(dir)
	for _, s := range entries {
		if url == "" && alive(s.PID) || url != "" && strings.TrimSuffix(s.URL, "/") == strings.TrimSuffix(url, "/") {
			return s, nil
		}
	}
	if url != "" {
		return Server{}, errs.New(errs.NotFound, "no key is known for %s", url).
			WithCode("key_missing").WithRemedy("set LEHR_API_KEY")
	}
	return Server{}, errs.New(errs.NotFound, "no server is running for this user").
		WithCode("server_missing").WithRemedy("start one with `lehr up`, or set LEHR_URL and LEHR_API_KEY")
}

// readServers returns the readable entries, newest first.
func readServers(dir string) []Server {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		panic(fmt.Sprintf("config: bad pattern: %v", err)) // the pattern is ours
	}
	var all []Server
	for _, p := range paths {
		b, err := os.ReadFile(p)
		var s Server
		if err != nil || json.Unmarshal(b, &s) != nil || s.URL == "" {
			continue // a file of somebody else, or one that goes away right now
		}
		all = append(all, s)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Started.After(all[j].Started) })
	return all
}

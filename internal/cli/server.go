package cli

import (
	"net/http"
	"os"
	"syscall"

	"github.com/lehr-dev/lehr/internal/config"
	"github.com/lehr-dev/lehr/sdk"
)

// client returns a client for the server that LEHR_URL and LEHR_API_KEY name;
// what is missing comes from the state files of a local `lehr up`.
func (a *app) client() (*sdk.Client, error) {
	url, key := a.getenv("LEHR_URL"), a.getenv("LEHR_API_KEY")
	if url == "" || key == "" {
		s, err := config.FindServer(config.ServersDir(a.getenv), url, alive)
		if err != nil && (url == "" || key == "") {
			return nil, err
		}
		url = s.URL
		if key == "" {
			key = s.Key
		}
	}
	c, err := sdk.New(sdk.Options{URL: url, Key: key, HTTP: a.httpClient()})
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// httpClient is nil, the client's own, unless requests are to be named.
func (a *app) httpClient() *http.Client {
	if !a.verbose {
		return nil
	}
	return &http.Client{
		Transport:     wordy{out: a.env.Stderr, next: http.DefaultTransport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (a *app) getenv(name string) string {
	v, _ := a.env.LookupEnv(name)
	return v
}

// alive reports whether a process exists; one of another user counts.
func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	err = p.Signal(syscall.Signal(0))
	return err == nil || os.IsPermission(err)
}

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestCollectionUnderLoad lets builds, cancels, sandboxes, removals of templates
// and collections work against each other on a real host: nothing that is needed
// is ever gone, and at the end the host holds what versions name and nothing else.
func TestCollectionUnderLoad(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	var users, others sync.WaitGroup
	var done atomic.Bool
	for n := range 2 {
		users.Go(func() {
			for i := range 6 {
				m.buildOnce(fmt.Sprintf("g%d", (n+i)%2), i%3 == 2)
			}
		})
	}
	others.Go(func() {
		for i := 0; !done.Load(); i++ {
			m.useOnce(fmt.Sprintf("g%d", i%2))
		}
	})
	others.Go(func() {
		for i := 0; !done.Load(); i++ {
			_ = m.request("DELETE", fmt.Sprintf("/v1/templates/g%d", i%2), nil, nil) // may not be there, or be in use
		}
	})
	users.Wait()
	done.Store(true)
	others.Wait()
	m.killBoxes()
	m.nothingLeft("collections under load")
}

// buildOnce builds the same content as everybody else, or cancels it.
func (m *matrix) buildOnce(name string, cancel bool) {
	var b built
	err := m.request("POST", "/v1/builds", map[string]any{
		"name": name, "base_template": "tiny", "skip_pre_post": true, "recipe": []string{"RUN true"},
	}, &b)
	if err != nil {
		m.t.Errorf("create = %v", err)
		return
	}
	if cancel {
		_ = m.request("POST", "/v1/builds/"+b.ID+"/cancel", nil, nil) // may be too late
	}
	m.await("the end of build "+b.ID, func() error {
		if err := m.request("GET", "/v1/builds/"+b.ID, nil, &b); err != nil {
			return err
		}
		if b.Status == "pending" || b.Status == "running" {
			return errors.New(b.Status)
		}
		return nil
	})
	if b.Status == "failed" || b.Attempt > 1 {
		m.t.Errorf("build %s is %s after %d attempts (%+v)", b.ID, b.Status, b.Attempt, b.Error)
	}
}

// useOnce creates a sandbox of a template that may be there: its artifacts must
// be then.
func (m *matrix) useOnce(name string) {
	var b box
	err := m.request("POST", "/v1/sandboxes", map[string]any{"template": name}, &b)
	switch {
	case err == nil:
		if err := m.request("DELETE", "/v1/sandboxes/"+b.ID, nil, nil); err != nil {
			m.t.Errorf("kill = %v", err)
		}
	case strings.Contains(err.Error(), "image_missing") || strings.Contains(err.Error(), "snapshot_missing"):
		m.t.Errorf("create = %v: a version names what is gone", err)
	}
}

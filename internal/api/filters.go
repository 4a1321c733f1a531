package api

import (
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// metadataFilter checks a filter by metadata.
func metadataFilter(m map[string]string) error {
	if err := pairFilter("metadata", m); err != nil {
		return err
	}
	if err := lehr.CheckMetadata(m); err != nil {
		return errs.New(errs.Invalid, "%w", err).WithField("metadata").WithCode("metadata_invalid").
			WithRemedy("no metadata has that, so the filter would find nothing")
	}
	return nil
}

// pairFilter checks the size of a filter by names and values.
func pairFilter(field string, m map[string]string) error {
	if len(m) > store.MaxPairs {
		return errs.New(errs.Invalid, "%d names: want at most %d", len(m), store.MaxPairs).WithField(field).
			WithCode("filter_too_large").WithRemedy("filter by fewer, and look at the rest in the answer")
	}
	if _, empty := m[""]; empty {
		return errs.New(errs.Invalid, "a name is empty").WithField(field).WithCode("filter_invalid").WithRemedy("write name=value")
	}
	return nil
}

// sandboxState checks a filter by state.
func sandboxState(s string) (lehr.SandboxState, error) {
	state := lehr.SandboxState(s)
	switch state {
	case "", lehr.SandboxCreating, lehr.SandboxRunning, lehr.SandboxPausing, lehr.SandboxPaused, lehr.SandboxResuming,
		lehr.SandboxKilled, lehr.SandboxFailed:
		return state, nil
	}
	return "", errs.New(errs.Invalid, "%q is not a state of a sandbox", clipName(s)).WithField("state").
		WithRemedy("use creating, running, pausing, paused, resuming, killed or failed")
}

// templateFilter returns NAME or NAME:TAG as sandboxes record it.
func templateFilter(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	ref, err := lehr.ParseRef(s)
	if err == nil && ref.Team != "" {
		err = errs.New(errs.Invalid, "names a team")
	}
	if err != nil {
		return "", errs.New(errs.Invalid, "%w", err).WithField("template").WithCode("template_invalid").WithRemedy("write NAME or NAME:TAG")
	}
	if !strings.Contains(s, ":") {
		return ref.Name, nil
	}
	return ref.Name + ":" + ref.Tag, nil
}

// templateType checks a filter by type.
func templateType(s string) (lehr.TemplateType, error) {
	switch t := lehr.TemplateType(s); t {
	case "", lehr.TypeBase, lehr.TypeSnapshot:
		return t, nil
	}
	return "", errs.New(errs.Invalid, "%q is not a type of a template", clipName(s)).WithField("type").WithRemedy("use base or snapshot")
}

package lite_test

import (
	"path/filepath"
	"testing"

	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/lite"
	"github.com/lehr-dev/lehr/internal/store/storetest"
)

func open(t testing.TB, o lite.Options) store.Store {
	t.Helper()
	s, err := lite.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("Open(%+v) = %v", o, err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return s
}

func TestFile(t *testing.T) {
	t.Parallel()
	storetest.Exercise(t, func(t *testing.T) store.Store {
		return open(t, lite.Options{Path: filepath.Join(t.TempDir(), "odd name?#%41.db")})
	})
}

func TestMemory(t *testing.T) {
	t.Parallel()
	storetest.Exercise(t, func(t *testing.T) store.Store { return open(t, lite.Options{Path: lite.Memory}) })
}

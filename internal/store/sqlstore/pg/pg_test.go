package pg_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/lehr-dev/lehr/internal/store"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/pg"
	"github.com/lehr-dev/lehr/internal/store/sqlstore/pg/pgtest"
	"github.com/lehr-dev/lehr/internal/store/storetest"
)

// server and durable are the test binary's databases.
var server, durable = &pgtest.Server{}, &pgtest.Server{Durable: true}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, s := range []*pgtest.Server{server, durable} {
		if err := s.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func open(t testing.TB, url string) store.Store {
	t.Helper()
	s, err := pg.Open(t.Context(), pg.Options{URL: url})
	if err != nil {
		t.Fatalf("Open() = %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Exercise(t, func(t *testing.T) store.Store { return open(t, server.Database(t)) })
}

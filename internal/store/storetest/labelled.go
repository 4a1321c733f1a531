package storetest

import (
	"fmt"
	"testing"

	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// labelledTeam owns what PutLabelled writes.
const labelledTeam = "labelled"

// PutLabelled writes n versions with a label each, for tests of what happens to
// the database between two lives of a store.
func PutLabelled(t *testing.T, s store.Store, n int) {
	t.Helper()
	team, err := s.Accounts().EnsureTeam(t.Context(), labelledTeam)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		v := *version(team.ID)
		v.Config.Labels = []lehr.EnvVar{{Name: "n", Value: fmt.Sprint(i)}, {Name: "all", Value: "yes"}}
		if _, err := s.Templates().PutVersion(t.Context(), fmt.Sprint("app-", i), "default", v); err != nil {
			t.Fatal(err)
		}
	}
}

// WantLabelled wants each of the n versions to be found by its label.
func WantLabelled(t *testing.T, s store.Store, n int) {
	t.Helper()
	team, err := s.Accounts().EnsureTeam(t.Context(), labelledTeam)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		labels := map[string]string{"n": fmt.Sprint(i), "all": "yes"}
		found, err := s.Templates().List(t.Context(), store.ListTemplates{TeamID: team.ID, Labels: labels, Limit: 10})
		if err != nil || len(found) != 1 || found[0].Template.Name != fmt.Sprint("app-", i) {
			t.Errorf("List(%v) = %+v, %v, want app-%d", labels, found, err, i)
		}
	}
}

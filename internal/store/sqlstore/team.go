package sqlstore

import (
	"context"
	"database/sql"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

const sqlTeamColumns = `id, name, created_at, ` + sqlTeamLimitColumns

const sqlTeamGet = `
SELECT ` + sqlTeamColumns + ` FROM teams WHERE id = $1`

const sqlTeamByName = `
SELECT ` + sqlTeamColumns + ` FROM teams WHERE name = $1`

const sqlTeamInsert = `
INSERT INTO teams (id, name, created_at) VALUES ($1, $2, {now})
ON CONFLICT (name) DO NOTHING`

const sqlTeamList = `
SELECT ` + sqlTeamColumns + ` FROM teams WHERE name > $1 ORDER BY name LIMIT $2`

const sqlTeamSetLimits = `
UPDATE teams
SET max_sandboxes = $2, max_vcpus = $3, max_memory_mb = $4, max_running_builds = $5, max_pending_builds = $6,
    max_creates_per_minute = $7, paid_until = CASE WHEN paid_until > {now} THEN {now} ELSE paid_until END
WHERE id = $1
RETURNING ` + sqlTeamColumns

// EnsureTeam implements store.Accounts.
func (a accounts) EnsureTeam(ctx context.Context, name string) (lehr.Team, error) {
	return write(ctx, a.s, "store.Accounts.EnsureTeam", func(ctx context.Context, t tx) (lehr.Team, error) {
		if ref, err := lehr.ParseRef(name); err != nil || ref.Name != name {
			return lehr.Team{}, errs.New(errs.Invalid, "%.80q is not the name of a team", name).WithField("name")
		}
		team, ok, err := one(ctx, t, scanTeam, sqlTeamByName, name)
		if err != nil || ok {
			return team, err
		}
		if _, err := t.exec(ctx, sqlTeamInsert, string(lehr.NewTeamID()), name); err != nil {
			return lehr.Team{}, err
		}
		team, ok, err = one(ctx, t, scanTeam, sqlTeamByName, name)
		if err == nil && !ok {
			err = errs.New(errs.Unavailable, "the team was neither made nor found")
		}
		return team, err
	})
}

// Team implements store.Accounts.
func (a accounts) Team(ctx context.Context, id lehr.TeamID) (lehr.Team, error) {
	return read(ctx, a.s, "store.Accounts.Team", func(ctx context.Context, t tx) (lehr.Team, error) {
		return teamFound(string(id))(one(ctx, t, scanTeam, sqlTeamGet, string(id)))
	})
}

// TeamByName implements store.Teams.
func (a accounts) TeamByName(ctx context.Context, name string) (lehr.Team, error) {
	return read(ctx, a.s, "store.Teams.TeamByName", func(ctx context.Context, t tx) (lehr.Team, error) {
		return teamFound(name)(one(ctx, t, scanTeam, sqlTeamByName, name))
	})
}

// teamFound turns the absence of a team into an error.
func teamFound(what string) func(lehr.Team, bool, error) (lehr.Team, error) {
	return func(team lehr.Team, ok bool, err error) (lehr.Team, error) {
		if err == nil && !ok {
			err = errs.New(errs.NotFound, "there is no team %.80s", what).WithCode("team_not_found")
		}
		return team, err
	}
}

// ListTeams implements store.Teams.
func (a accounts) ListTeams(ctx context.Context, after string, limit int) ([]lehr.Team, error) {
	return read(ctx, a.s, "store.Teams.ListTeams", func(ctx context.Context, t tx) ([]lehr.Team, error) {
		if err := checkLimit(limit); err != nil {
			return nil, err
		}
		return all(ctx, t, scanTeam, sqlTeamList, after, limit)
	})
}

// SetLimits implements store.Teams. A debt of creates is forgiven.
func (a accounts) SetLimits(ctx context.Context, id lehr.TeamID, l lehr.TeamLimits) (lehr.Team, error) {
	return writeOne(ctx, a.s, "store.Teams.SetLimits", func(ctx context.Context, t tx) (lehr.Team, error) {
		return teamFound(string(id))(one(ctx, t, scanTeam, sqlTeamSetLimits, string(id),
			l.Sandboxes, l.VCPUs, l.MemoryMB, l.RunningBuilds, l.PendingBuilds, l.CreatesPerMinute))
	})
}

// RoomForSandbox implements store.Teams.
func (a accounts) RoomForSandbox(ctx context.Context, id lehr.TeamID, need lehr.Resources) error {
	_, err := read(ctx, a.s, "store.Teams.RoomForSandbox", func(ctx context.Context, t tx) (bool, error) {
		team, err := t.account(ctx, sqlTeamLook, id)
		if err != nil {
			return false, err
		}
		if err := t.roomForSandbox(ctx, team, need); err != nil {
			return false, err
		}
		_, err = team.next()
		return true, err
	})
	return err
}

// RoomForBuild implements store.Teams.
func (a accounts) RoomForBuild(ctx context.Context, id lehr.TeamID, usual int32) error {
	_, err := read(ctx, a.s, "store.Teams.RoomForBuild", func(ctx context.Context, t tx) (bool, error) {
		team, err := t.account(ctx, sqlTeamLook, id)
		if err != nil {
			return false, err
		}
		if err := t.roomForBuild(ctx, team, usual); err != nil {
			return false, err
		}
		_, err = team.next()
		return true, err
	})
	return err
}

// Usage implements store.Teams.
func (a accounts) Usage(ctx context.Context, id lehr.TeamID) (lehr.TeamUsage, error) {
	return read(ctx, a.s, "store.Teams.Usage", func(ctx context.Context, t tx) (lehr.TeamUsage, error) {
		u, err := t.liveUsage(ctx, id)
		if err != nil {
			return u, err
		}
		for status, count := range map[lehr.BuildStatus]*int32{lehr.BuildPending: &u.PendingBuilds, lehr.BuildRunning: &u.RunningBuilds} {
			if *count, _, err = one(ctx, t, scanValue[int32], sqlBuildUsage, string(id), string(status)); err != nil {
				return u, err
			}
		}
		return u, nil
	})
}

func scanTeam(row scanner) (team lehr.Team, err error) {
	var created sql.Null[int64]
	err = row.Scan(append([]any{&team.ID, &team.Name, &created}, limitTargets(&team.Limits)...)...)
	team.CreatedAt = instant(created)
	return team, err
}

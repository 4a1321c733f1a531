package sqlstore

import (
	"context"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
)

// sqlTeamLock locks the row of a team, which is what creates of a team with
// limits wait for one another on, and reads its limits.
const sqlTeamLock = `
UPDATE teams SET paid_until = paid_until WHERE id = $1
RETURNING ` + sqlTeamLimitColumns + `, paid_until, {now}`

const sqlTeamPay = `
UPDATE teams SET paid_until = $2 WHERE id = $1`

const sqlTeamLimitColumns = `max_sandboxes, max_vcpus, max_memory_mb, max_running_builds, max_pending_builds, max_creates_per_minute`

const sqlLiveUsage = `
SELECT COUNT(*), COALESCE(SUM(vcpus), 0), COALESCE(SUM(memory_mb), 0)
FROM sandboxes WHERE team_id = $1 AND ended_at IS NULL AND build_id IS NULL`

const sqlBuildUsage = `
SELECT COUNT(*) FROM template_builds WHERE team_id = $1 AND status = $2`

// sqlTeamLook is sqlTeamLock without the lock.
const sqlTeamLook = `
SELECT ` + sqlTeamLimitColumns + `, paid_until, {now} FROM teams WHERE id = $1`

// limitMinute is the span of creates_per_minute, in microseconds.
const limitMinute = int64(time.Minute / time.Microsecond)

// limitRetry is what a caller is told to wait for room that comes when
// something else ends.
const limitRetry = 5 * time.Second

// account is a team's limits and what it paid for creates.
type account struct {
	id     lehr.TeamID
	limits lehr.TeamLimits
	paid   int64 // microseconds
	now    int64
}

// admit reads a team's limits, and waits for the team's other creates where it
// has any that creates count towards. NotFound where there is no such team.
func (t tx) admit(ctx context.Context, id lehr.TeamID) (account, error) {
	a, err := t.account(ctx, sqlTeamLook, id)
	free := a.limits
	free.RunningBuilds = 0 // which claims count towards
	if err != nil || free == (lehr.TeamLimits{}) {
		return a, err
	}
	return t.lockTeam(ctx, id)
}

// lockTeam waits for whoever else holds the team's row.
func (t tx) lockTeam(ctx context.Context, id lehr.TeamID) (account, error) {
	return t.account(ctx, sqlTeamLock, id)
}

func (t tx) account(ctx context.Context, query string, id lehr.TeamID) (account, error) {
	scan := func(row scanner) (a account, err error) {
		return a, row.Scan(append(limitTargets(&a.limits), &a.paid, &a.now)...)
	}
	a, ok, err := one(ctx, t, scan, query, string(id))
	if err == nil && !ok {
		err = errs.New(errs.NotFound, "there is no team %.80s", id)
	}
	a.id = id
	return a, err
}

func limitTargets(l *lehr.TeamLimits) []any {
	return []any{&l.Sandboxes, &l.VCPUs, &l.MemoryMB, &l.RunningBuilds, &l.PendingBuilds, &l.CreatesPerMinute}
}

// pay counts one create against creates_per_minute.
func (t tx) pay(ctx context.Context, a account) error {
	until, err := a.next()
	if err != nil || until == 0 {
		return err
	}
	_, err = t.exec(ctx, sqlTeamPay, string(a.id), until)
	return err
}

// next returns what one more create moves paid_until to, 0 where the team has
// no such limit.
func (a account) next() (int64, error) {
	rate := int64(a.limits.CreatesPerMinute)
	if rate == 0 {
		return 0, nil
	}
	until := max(a.paid, a.now) + limitMinute/rate
	if ahead := until - a.now - limitMinute; ahead > 0 {
		return 0, errs.New(errs.Exhausted, "the team made %d builds and sandboxes in a minute, which is its limit", rate).
			WithCode("limit_creates_per_minute").WithRetryAfter(time.Duration(ahead) * time.Microsecond).
			WithRemedy("slow down, or ask an administrator for more")
	}
	return until, nil
}

// roomForSandbox refuses a sandbox that the team's limits have no room for.
func (t tx) roomForSandbox(ctx context.Context, a account, need lehr.Resources) error {
	l := a.limits
	if l.Sandboxes == 0 && l.VCPUs == 0 && l.MemoryMB == 0 {
		return nil
	}
	u, err := t.liveUsage(ctx, a.id)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		code, what      string
		used, add, most int32
	}{
		{"limit_sandboxes", "live sandboxes", u.Sandboxes, 1, l.Sandboxes},
		{"limit_vcpus", "processors in live sandboxes", u.VCPUs, need.VCPUs, l.VCPUs},
		{"limit_memory_mb", "MB of memory in live sandboxes", u.MemoryMB, need.MemoryMB, l.MemoryMB},
	} {
		if c.most > 0 && int64(c.used)+int64(c.add) > int64(c.most) {
			return errs.New(errs.Exhausted, "the team has %d %s, %d more are over its limit of %d", c.used, c.what, c.add, c.most).
				WithCode(c.code).WithRetryAfter(limitRetry).
				WithRemedy("end sandboxes that are not needed, or ask an administrator for more")
		}
	}
	return nil
}

// roomForBuild refuses a build where the team has as many pending ones as it
// may; usual is the bound of a team without one of its own.
func (t tx) roomForBuild(ctx context.Context, a account, usual int32) error {
	most := a.limits.PendingBuilds
	if most == 0 {
		most = usual
	}
	if most == 0 {
		return nil
	}
	n, _, err := one(ctx, t, scanValue[int32], sqlBuildUsage, string(a.id), string(lehr.BuildPending))
	if err == nil && n >= most {
		err = errs.New(errs.Exhausted, "the team has %d pending builds, its limit is %d", n, most).
			WithCode("limit_pending_builds").WithRetryAfter(limitRetry).
			WithRemedy("wait for builds to end, cancel some, or ask an administrator for more")
	}
	return err
}

// liveUsage counts the team's live sandboxes; builds' own count as builds.
func (t tx) liveUsage(ctx context.Context, id lehr.TeamID) (lehr.TeamUsage, error) {
	scan := func(row scanner) (u lehr.TeamUsage, err error) {
		var vcpus, memory int64
		err = row.Scan(&u.Sandboxes, &vcpus, &memory)
		u.VCPUs, u.MemoryMB = clamp(vcpus), clamp(memory)
		return u, err
	}
	u, _, err := one(ctx, t, scan, sqlLiveUsage, string(id))
	return u, err
}

func clamp(n int64) int32 { return int32(min(n, 1<<31-1)) }

package api

import (
	"context"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// teams implements lehr.v1.TeamService.
type teams struct{ accounts store.Accounts }

// maxTeamLimit bounds every limit that can be set.
const maxTeamLimit = 1_000_000

// teamCursor begins the cursor of the list of teams, which goes by name.
const teamCursor = "team:"

func (t *teams) Get(ctx context.Context, req *connect.Request[lehrv1.GetTeamRequest]) (*connect.Response[lehrv1.Team], error) {
	team, err := teamOf(ctx, t.accounts, req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	return t.withUsage(ctx, team)
}

func (t *teams) List(ctx context.Context, req *connect.Request[lehrv1.ListTeamsRequest]) (*connect.Response[lehrv1.ListTeamsResponse], error) {
	if err := wantAdmin(ctx); err != nil {
		return nil, err
	}
	limit, err := pageSize(req.Msg.GetLimit())
	if err != nil {
		return nil, err
	}
	after, ok := strings.CutPrefix(req.Msg.GetCursor(), teamCursor)
	if req.Msg.GetCursor() != "" && (!ok || teamName("cursor", after) != nil) {
		return nil, badCursor()
	}
	list, err := t.accounts.ListTeams(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	page, next := cut(list, limit, func(t lehr.Team) string { return teamCursor + t.Name })
	res := &lehrv1.ListTeamsResponse{NextCursor: next}
	for _, one := range page {
		res.Teams = append(res.Teams, teamMessage(one))
	}
	return connect.NewResponse(res), nil
}

func (t *teams) SetLimits(ctx context.Context, req *connect.Request[lehrv1.SetTeamLimitsRequest]) (*connect.Response[lehrv1.Team], error) {
	if err := wantAdmin(ctx); err != nil {
		return nil, err
	}
	limits, err := teamLimits(req.Msg.GetLimits())
	if err != nil {
		return nil, err
	}
	if err := teamName("name", req.Msg.GetName()); err != nil {
		return nil, err
	}
	team, err := t.accounts.EnsureTeam(ctx, req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	if team, err = t.accounts.SetLimits(ctx, team.ID, limits); err != nil {
		return nil, err
	}
	return t.withUsage(ctx, team)
}

func (t *teams) withUsage(ctx context.Context, team lehr.Team) (*connect.Response[lehrv1.Team], error) {
	u, err := t.accounts.Usage(ctx, team.ID)
	if err != nil {
		return nil, err
	}
	m := teamMessage(team)
	m.Usage = &lehrv1.TeamUsage{
		Sandboxes: u.Sandboxes, Vcpus: u.VCPUs, MemoryMb: u.MemoryMB, RunningBuilds: u.RunningBuilds, PendingBuilds: u.PendingBuilds,
	}
	return connect.NewResponse(m), nil
}

// teamOf finds the team that a request names; empty is the caller's own.
// Another one's needs an administrator key.
func teamOf(ctx context.Context, accounts store.Accounts, name string) (lehr.Team, error) {
	own := caller(ctx).TeamID
	if name == "" {
		return accounts.Team(ctx, own)
	}
	if err := teamName("team", name); err != nil {
		return lehr.Team{}, err
	}
	team, err := accounts.TeamByName(ctx, name)
	if caller(ctx).Admin || err == nil && team.ID == own {
		return team, err
	}
	return lehr.Team{}, wantAdmin(ctx) // whether there is such a team stays unsaid
}

// teamName checks the form of a team's name.
func teamName(field, name string) error {
	ref, err := lehr.ParseRef(name)
	if err != nil || ref.String() != name+":"+lehr.DefaultTag {
		return errs.New(errs.Invalid, "%q is not a team name", clipName(name)).WithField(field).
			WithRemedy("use lower-case letters, digits, dots, hyphens and underscores")
	}
	return nil
}

// teamLimits reads limits; a message that is missing sets none.
func teamLimits(m *lehrv1.TeamLimits) (lehr.TeamLimits, error) {
	l := lehr.TeamLimits{
		Sandboxes: m.GetSandboxes(), VCPUs: m.GetVcpus(), MemoryMB: m.GetMemoryMb(), RunningBuilds: m.GetRunningBuilds(),
		PendingBuilds: m.GetPendingBuilds(), CreatesPerMinute: m.GetCreatesPerMinute(),
	}
	for _, f := range []struct {
		name  string
		value int32
		most  int32
	}{
		{"sandboxes", l.Sandboxes, maxTeamLimit},
		{"vcpus", l.VCPUs, maxTeamLimit},
		{"memory_mb", l.MemoryMB, 1<<31 - 1},
		{"running_builds", l.RunningBuilds, maxTeamLimit},
		{"pending_builds", l.PendingBuilds, maxTeamLimit},
		{"creates_per_minute", l.CreatesPerMinute, maxTeamLimit},
	} {
		if f.value < 0 || f.value > f.most {
			return l, errs.New(errs.Invalid, "%d is not between 0 and %d", f.value, f.most).WithField("limits." + f.name).
				WithCode("limit_invalid").WithRemedy("0 is no limit")
		}
	}
	return l, nil
}

// limitsBody reads the limits of a team as the whole body.
func limitsBody(w http.ResponseWriter, r *http.Request, m proto.Message) error {
	set, ok := m.(*lehrv1.SetTeamLimitsRequest)
	if !ok {
		return errs.New(errs.Internal, "limits are no part of %T", m)
	}
	set.Limits = &lehrv1.TeamLimits{}
	return body(w, r, set.Limits)
}

func teamMessage(t lehr.Team) *lehrv1.Team {
	return &lehrv1.Team{
		Id: string(t.ID), Name: t.Name, CreatedAt: stamp(t.CreatedAt),
		Limits: &lehrv1.TeamLimits{
			Sandboxes: t.Limits.Sandboxes, Vcpus: t.Limits.VCPUs, MemoryMb: t.Limits.MemoryMB, RunningBuilds: t.Limits.RunningBuilds,
			PendingBuilds: t.Limits.PendingBuilds, CreatesPerMinute: t.Limits.CreatesPerMinute,
		},
	}
}

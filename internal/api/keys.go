package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"

	"connectrpc.com/connect"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// keys implements lehr.v1.KeyService.
type keys struct{ accounts store.Accounts }

// shownChars is how much of a key its record keeps, for recognition.
const shownChars = len("lehr_") + 6

// NewKey returns a key's record and its secret, which exists only here.
func NewKey(team lehr.TeamID, name string, admin bool, now time.Time) (lehr.Key, string) {
	var random [secretChars / 2]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	secret := "lehr_" + hex.EncodeToString(random[:])
	return lehr.Key{ID: lehr.NewKeyID(), TeamID: team, Name: name, Prefix: secret[:shownChars], Admin: admin, CreatedAt: now.UTC()}, secret
}

func (k *keys) Create(ctx context.Context, req *connect.Request[lehrv1.CreateKeyRequest]) (*connect.Response[lehrv1.CreatedKey], error) {
	if err := wantAdmin(ctx); err != nil {
		return nil, err
	}
	name := req.Msg.GetName()
	if name == "" || len(name) > 100 {
		return nil, errs.New(errs.Invalid, "want 1 to 100 characters").WithField("name").WithRemedy("name the key after its user")
	}
	if err := plainText("name", name); err != nil {
		return nil, err
	}
	team := caller(ctx).TeamID
	if req.Msg.GetTeam() != "" {
		if err := teamName("team", req.Msg.GetTeam()); err != nil {
			return nil, err
		}
		t, err := k.accounts.EnsureTeam(ctx, req.Msg.GetTeam())
		if err != nil {
			return nil, err
		}
		team = t.ID
	}
	key, secret := NewKey(team, name, req.Msg.GetAdmin(), time.Now())
	hash, _ := HashKey(secret)
	if err := k.accounts.CreateKey(ctx, key, hash); err != nil {
		return nil, err
	}
	return connect.NewResponse(&lehrv1.CreatedKey{Id: string(key.ID), Name: key.Name, Key: secret}), nil
}

func (k *keys) List(ctx context.Context, req *connect.Request[lehrv1.ListKeysRequest]) (*connect.Response[lehrv1.ListKeysResponse], error) {
	if err := wantAdmin(ctx); err != nil {
		return nil, err
	}
	limit, err := pageSize(req.Msg.GetLimit())
	if err != nil {
		return nil, err
	}
	before, err := cursor(req.Msg.GetCursor(), lehr.ParseKeyID)
	if err != nil {
		return nil, err
	}
	team, err := teamOf(ctx, k.accounts, req.Msg.GetTeam())
	if err != nil {
		return nil, err
	}
	list, err := k.accounts.ListKeys(ctx, team.ID, before, limit+1)
	if err != nil {
		return nil, err
	}
	page, next := cut(list, limit, func(k lehr.Key) string { return string(k.ID) })
	res := &lehrv1.ListKeysResponse{NextCursor: next}
	for _, key := range page {
		res.Keys = append(res.Keys, keyMessage(key))
	}
	return connect.NewResponse(res), nil
}

func (k *keys) Revoke(ctx context.Context, req *connect.Request[lehrv1.RevokeKeyRequest]) (*connect.Response[lehrv1.Key], error) {
	if err := wantAdmin(ctx); err != nil {
		return nil, err
	}
	id, err := lehr.ParseKeyID(req.Msg.GetId())
	if err != nil {
		return nil, badID(err)
	}
	team, err := teamOf(ctx, k.accounts, req.Msg.GetTeam())
	if err != nil {
		return nil, err
	}
	key, err := k.accounts.RevokeKey(ctx, team.ID, id)
	if errs.IsKind(err, errs.NotFound) {
		return nil, errs.New(errs.NotFound, "team %s has no key %s", team.Name, id).WithCode("key_not_found").
			WithRemedy("look for it in the list of keys; name the team where it is another one's")
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(keyMessage(key)), nil
}

func wantAdmin(ctx context.Context) error {
	if caller(ctx).Admin {
		return nil
	}
	return errs.New(errs.PermissionDenied, "this needs an administrator key").
		WithCode("admin_needed").WithRemedy("use the key of `lehr up`, or ask for one made with `lehr keys create --admin`")
}

func keyMessage(k lehr.Key) *lehrv1.Key {
	return &lehrv1.Key{
		Id: string(k.ID), Name: k.Name, Prefix: k.Prefix, TeamId: string(k.TeamID), Admin: k.Admin,
		CreatedAt: stamp(k.CreatedAt), RevokedAt: stamp(k.RevokedAt),
	}
}

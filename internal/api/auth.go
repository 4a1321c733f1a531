package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/httpkit"
	"github.com/lehr-dev/lehr/internal/lehr"
	"github.com/lehr-dev/lehr/internal/store"
)

// secretChars is the length of a key after its prefix: 160 bits in hex.
const secretChars = 40

// connectPrefix begins the path of every Connect method.
const connectPrefix = "/lehr.v1."

type callerKey struct{}

// caller returns the key that authenticated the request.
func caller(ctx context.Context) lehr.Key {
	k, _ := ctx.Value(callerKey{}).(lehr.Key)
	return k
}

// authenticate lets requests with a valid key through and puts the key into
// their context. The key comes in X-API-Key or as a bearer token.
func authenticate(accounts store.Accounts, log *slog.Logger, next http.Handler) http.Handler {
	connectErrors := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, err := keyOf(r, accounts)
		if err == nil {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, key)))
			return
		}
		httpkit.LogError(r.Context(), log, "authenticate", err)
		httpkit.Dismiss(w)
		// Not IsSupported alone: it takes every GET for a Connect one.
		if strings.HasPrefix(r.URL.Path, connectPrefix) && connectErrors.IsSupported(r) {
			_ = connectErrors.Write(w, r, httpkit.ConnectError(err)) // a client that is gone gets nothing
			return
		}
		httpkit.WriteError(w, err)
	})
}

func keyOf(r *http.Request, accounts store.Accounts) (lehr.Key, error) {
	given := r.Header.Get("X-API-Key")
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); given == "" && ok && strings.EqualFold(scheme, "Bearer") {
		given = strings.TrimSpace(token)
	}
	if given == "" {
		return lehr.Key{}, errs.New(errs.Unauthenticated, "no API key was given").
			WithCode("key_missing").WithRemedy("send it in the header X-API-Key; `lehr keys create` makes one")
	}
	hash, ok := HashKey(given)
	if !ok {
		return lehr.Key{}, badKey()
	}
	key, err := accounts.KeyByHash(r.Context(), hash)
	if errs.IsKind(err, errs.NotFound) {
		return lehr.Key{}, badKey() // unknown and revoked look the same
	}
	return key, err
}

func badKey() error {
	return errs.New(errs.Unauthenticated, "the API key is not valid").
		WithCode("key_invalid").WithRemedy("`lehr keys ls` shows the valid keys, `lehr keys create` makes one")
}

// HashKey returns the digest under which a key is stored: of its 40 hex digits,
// so that the prefixes lehr_ and e2b_ name the same key.
func HashKey(key string) (lehr.Digest, bool) {
	secret, ok := strings.CutPrefix(key, "lehr_")
	if !ok {
		secret, ok = strings.CutPrefix(key, "e2b_")
	}
	if !ok || len(secret) != secretChars || strings.Trim(secret, "0123456789abcdef") != "" {
		return "", false
	}
	return lehr.DigestOf([]byte(secret)), true
}

package guestd

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// operator admits the operator only.
func (s *Server) operator(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.isOperator(r) {
			refuse(w, r, errs.New(errs.Unauthenticated, "this call is the operator's"))
			return
		}
		h(w, r)
	})
}

// user admits who has the access token, and the operator.
func (s *Server) user(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.isUser(r) {
			refuse(w, r, errs.New(errs.Unauthenticated, "unauthorized access, please provide a valid access token"))
			return
		}
		h(w, r)
	})
}

// fileUser admits users and signed URLs.
func (s *Server) fileUser(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("signature") == "" {
			s.user(h).ServeHTTP(w, r)
			return
		}
		if err := s.checkSignature(r, time.Now()); err != nil {
			refuse(w, r, err)
			return
		}
		// Whom the call works as is signed, so nothing else may name it.
		r.Header.Del(wire.HeaderUser)
		r.Header.Del("Authorization")
		h(w, r)
	})
}

func (s *Server) isOperator(r *http.Request) bool {
	return s.opt.Secret.Matches(r.Header.Get(wire.HeaderOperator))
}

func (s *Server) isUser(r *http.Request) bool {
	if r.Header.Get(wire.HeaderOperator) != "" {
		return s.isOperator(r)
	}
	token := s.current().AccessToken
	return token != "" && equal(token, r.Header.Get(wire.HeaderToken))
}

// checkSignature verifies a signed URL: "v1_" and the unpadded base64 of
// SHA-256 over path, operation, user, token and, where it has one, expiry.
func (s *Server) checkSignature(r *http.Request, now time.Time) error {
	q := r.URL.Query()
	token := s.current().AccessToken
	operation := "read"
	if r.Method == http.MethodPost {
		operation = "write"
	}
	fields := []string{q.Get("path"), operation, q.Get("username"), token}
	expiry := q.Get("signature_expiration")
	if expiry != "" {
		fields = append(fields, expiry)
	}
	sum := sha256.Sum256([]byte(strings.Join(fields, ":")))
	want := "v1_" + base64.RawStdEncoding.EncodeToString(sum[:])
	if token == "" || !equal(want, strings.TrimRight(q.Get("signature"), "=")) {
		return errs.New(errs.Unauthenticated, "invalid signature")
	}
	if expiry == "" {
		return nil
	}
	until, err := strconv.ParseInt(expiry, 10, 64)
	if err != nil || until < now.Unix() {
		return errs.New(errs.Unauthenticated, "signature is already expired")
	}
	return nil
}

// equal compares in a time that depends on neither content nor length.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

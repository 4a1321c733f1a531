package guestd

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
)

const (
	gzipCoding     = "gzip"
	identityCoding = "identity"
)

// chooseCoding returns the coding of an answer that Accept-Encoding prefers:
// gzip or identity, "" where it accepts neither. Without the header it is
// identity, which is acceptable unless it is ruled out by a weight of 0.
func chooseCoding(accept string) string {
	if strings.TrimSpace(accept) == "" {
		return identityCoding
	}
	weights := map[string]float64{}
	for item := range strings.SplitSeq(strings.ToLower(accept), ",") {
		name, parameters, _ := strings.Cut(item, ";")
		if name = strings.TrimSpace(name); name != "" {
			weights[name] = weight(parameters)
		}
	}
	star, anything := weights["*"]
	packed, named := weights[gzipCoding]
	if !named && anything {
		packed = star
	}
	plain, named := weights[identityCoding]
	ruledOut := named && plain == 0 || !named && anything && star == 0
	switch {
	case packed > 0 && packed >= plain && (ruledOut || weights[gzipCoding] > 0):
		return gzipCoding
	case ruledOut:
		return ""
	}
	return identityCoding
}

// weight reads the parameter q; what cannot be read counts as 1, as if it were
// not there.
func weight(parameters string) float64 {
	for p := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(p, "=")
		if strings.TrimSpace(name) != "q" {
			continue
		}
		q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err == nil && q >= 0 && q <= 1 {
			return q
		}
	}
	return 1
}

// notAcceptable answers a request that no coding of ours suits.
func notAcceptable(w http.ResponseWriter) {
	writeJSON(w, http.StatusNotAcceptable, failure{
		http.StatusNotAcceptable, "no acceptable encoding: files are sent as they are or as gzip",
	})
}

// sentCoding returns the coding of a request's body. Errors: Invalid.
func sentCoding(h http.Header) (string, error) {
	switch coding := strings.ToLower(strings.TrimSpace(h.Get("Content-Encoding"))); coding {
	case "", identityCoding:
		return identityCoding, nil
	case gzipCoding:
		return gzipCoding, nil
	}
	return "", errs.New(errs.Invalid, "the body's encoding is not supported").WithField("Content-Encoding").
		WithRemedy("send it as it is, or as gzip")
}

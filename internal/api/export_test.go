package api

import "net/http"

// recorder keeps the patterns of routes.
type recorder []string

func (r *recorder) HandleFunc(pattern string, _ func(http.ResponseWriter, *http.Request)) {
	*r = append(*r, pattern)
}

// RestRoutes returns the patterns that the REST door serves.
func RestRoutes() []string {
	var r recorder
	(&door{}).rest(&r)
	return r
}

package sqlstore

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// micros is the column of an optional time.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// instant reads the column of an optional time.
func instant(n sql.Null[int64]) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.UnixMicro(n.V).UTC()
}

// orNull is the column of an optional text.
func orNull[T ~string](s T) any {
	if s == "" {
		return nil
	}
	return string(s)
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// plain makes what a program printed storable in both engines: PostgreSQL
// takes neither NUL nor invalid UTF-8, so both become U+FFFD.
func plain(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.ReplaceAll(s, "\x00", "\uFFFD")
}

// specRecord is a BuildSpec as stored. It differs in nothing but the tags,
// which the compiler checks where one is converted to the other.
type specRecord struct {
	Name         string            `json:"name"`
	Tag          string            `json:"tag"`
	BaseTemplate string            `json:"base_template"`
	BaseImage    string            `json:"base_image,omitempty"`
	Recipe       []string          `json:"recipe"`
	Healthcheck  string            `json:"healthcheck,omitempty"`
	Resources    lehr.Resources    `json:"resources"`
	SkipPrePost  bool              `json:"skip_pre_post,omitempty"`
	BuildArgs    map[string]string `json:"build_args,omitempty"`
	NoCache      bool              `json:"no_cache,omitempty"`
	Limits       lehr.Limits       `json:"limits"`
	Priority     int32             `json:"priority,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
}

// errorRecord is a BuildError as stored.
type errorRecord struct {
	Code    string     `json:"code"`
	Message string     `json:"message"`
	Remedy  string     `json:"remedy,omitempty"`
	Fault   lehr.Fault `json:"fault"`
	Phase   lehr.Phase `json:"phase,omitempty"`
	Step    int32      `json:"step,omitempty"`
}

// artifactRecord is an Artifact as stored.
type artifactRecord struct {
	Type           lehr.TemplateType `json:"type"`
	ImageDigest    lehr.Digest       `json:"image_digest"`
	SnapshotDigest lehr.Digest       `json:"snapshot_digest,omitempty"`
	SizeBytes      int64             `json:"size_bytes"`
	Version        lehr.VersionID    `json:"version"`
}

// toJSON encodes a record of the kinds above, which cannot fail.
func toJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("sqlstore: encode %T: %v", v, err))
	}
	return string(data)
}

// fromJSON decodes an optional column; nil where it is NULL.
func fromJSON[T any](column sql.Null[string]) (*T, error) {
	if !column.Valid {
		return nil, nil
	}
	v := new(T)
	if err := json.Unmarshal([]byte(column.V), v); err != nil {
		return nil, fmt.Errorf("decode %T: %w", v, err)
	}
	return v, nil
}

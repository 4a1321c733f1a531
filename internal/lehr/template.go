package lehr

import "time"

// Template is a name with tags, each pointing to a version.
type Template struct {
	ID        TemplateID
	TeamID    TeamID
	Name      string
	CreatedAt time.Time
}

// Version is the immutable outcome of one successful build (or import).
type Version struct {
	ID             VersionID
	TemplateID     TemplateID
	TeamID         TeamID
	BuildID        BuildID // empty for imported bases
	Type           TemplateType
	Platform       string // "linux/amd64"
	ImageDigest    Digest
	SnapshotDigest Digest
	EngineDigest   Digest // of the sentry that wrote the snapshot
	SizeBytes      int64
	Resources      Resources
	BaseTemplate   string
	BaseDigest     Digest
	Config         ImageConfig
	Plan           []byte // JSON of the plan, for re-making a snapshot
	CreatedAt      time.Time
}

// ImageConfig is what a sandbox inherits from its image or version.
type ImageConfig struct {
	Env        []EnvVar `json:"env"`                  // default environment, in order
	User       string   `json:"user,omitempty"`       // default user, "" is root
	Workdir    string   `json:"workdir,omitempty"`    // default working directory, "" is "/"
	Entrypoint []string `json:"entrypoint,omitempty"` // default start command, exec form
	Cmd        []string `json:"cmd,omitempty"`        // default arguments, exec form
	Shell      []string `json:"shell,omitempty"`      // shell of shell-form instructions
	Labels     []EnvVar `json:"labels,omitempty"`     // LABEL, in order
	Exposed    []string `json:"exposed,omitempty"`    // EXPOSE, as "8080/tcp"
	Debian     bool     `json:"debian,omitempty"`     // has apt: pre- and post-build steps apply
}

// EnvVar is one name and value; order matters and values may hold newlines.
type EnvVar struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Tagged is one tag of a template with the version it points to.
type Tagged struct {
	Template Template
	Tag      string
	Tags     []string // every tag that points to Version
	Version  Version
}

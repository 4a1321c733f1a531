// Package wire holds the words the guest daemon and its client share beyond the
// E2B wire format: header names, error codes, the body of POST /init. It has no
// behaviour.
package wire

// Protocol is the version of what agent and guest daemon say to each other. An
// agent talks to daemons of its own version only.
const Protocol = 1

// EnvdVersion is the version of E2B's envd whose protocol the daemon speaks; the
// SDKs ask by it what they may use: recursive watching (0.1.4), processes
// without input (0.3.0), a default user (0.4.0), the end of input (0.5.2), plain
// uploads (0.5.7), metadata of files (0.6.2), entries of changes (0.6.3), network
// mounts (0.6.4).
const EnvdVersion = "0.6.4"

// Port is the TCP port the daemon serves in the sandbox.
const Port = 49983

// Headers of requests.
const (
	// HeaderOperator carries the operator's secret of this sandbox.
	HeaderOperator = "X-Lehr-Operator"
	// HeaderToken carries the access token that /init has set.
	HeaderToken = "X-Access-Token"
	// HeaderUser names the user a call works as: a name, "uid", "uid:gid" or
	// "name:group". It wins over Basic credentials and the username query.
	HeaderUser = "X-Lehr-User"
	// HeaderTimeLimit is the longest a started process may run, in milliseconds;
	// its end is then data (see TrailerEnded), unlike Connect's own timeout,
	// which ends the call with an error.
	HeaderTimeLimit = "X-Lehr-Time-Limit-Ms"
	// HeaderOnDisconnect says what happens to a started process when its stream
	// ends before it: "kill", or nothing.
	HeaderOnDisconnect = "X-Lehr-On-Disconnect"
	// HeaderCleanEnv set to "1" starts a process with the request's environment
	// and nothing else.
	HeaderCleanEnv = "X-Lehr-Clean-Env"
	// HeaderKeepalive asks for keepalive events, in seconds between them.
	HeaderKeepalive = "Keepalive-Ping-Interval"
	// HeaderConnectTimeout is Connect's time limit of a call in milliseconds.
	HeaderConnectTimeout = "Connect-Timeout-Ms"
)

// Headers and trailers of answers.
const (
	// HeaderGuest is the daemon's version, on /health.
	HeaderGuest = "X-Lehr-Guest"
	// HeaderProtocol is the daemon's Protocol, on /health.
	HeaderProtocol = "X-Lehr-Guest-Protocol"
	// HeaderErrorCode is the machine code of an error.
	HeaderErrorCode = "X-Lehr-Error-Code"
	// HeaderExitCode is the exit status a shell would give for a command that
	// could not be run: 126 or 127.
	HeaderExitCode = "X-Lehr-Exit-Code"
	// TrailerEnded says who ended a process: EndedByTimeLimit, or absent.
	TrailerEnded = "X-Lehr-Ended"
	// TrailerSignal is the number of the signal that ended a process, or absent.
	TrailerSignal = "X-Lehr-Signal"
)

// Values of headers and trailers.
const (
	OnDisconnectKill = "kill"
	EndedByTimeLimit = "time-limit"
)

// Machine codes of errors.
const (
	CodeCommandNotFound      = "command_not_found"
	CodeCommandNotExecutable = "command_not_executable"
	CodeUserUnknown          = "user_unknown"
	CodeWorkdirMissing       = "workdir_missing"
	CodeProcessUnknown       = "process_unknown"
	CodeDiskFull             = "disk_full"
	CodeStdinClosed          = "stdin_closed"
	CodeFollowerLost         = "follower_lost"
	CodeWatchOverflow        = "watch_overflow"
)

// Environment variables of the daemon.
const (
	// EnvOperatorSHA256 is the SHA-256 of the operator's secret, in hex.
	EnvOperatorSHA256 = "LEHR_OPERATOR_SHA256"
)

// Init is the body of POST /init: all the daemon knows about whom it serves.
// The last call wins as a whole; nothing of an earlier one is kept.
type Init struct {
	AccessToken    string            `json:"accessToken,omitempty"`    // of user calls; "": only the operator may call
	EnvVars        map[string]string `json:"envVars,omitempty"`        // default environment
	Timestamp      string            `json:"timestamp,omitempty"`      // accepted and ignored: the clock is right by itself
	DefaultUser    string            `json:"defaultUser,omitempty"`    // "" is root
	DefaultWorkdir string            `json:"defaultWorkdir,omitempty"` // "" is the user's home
	SandboxID      string            `json:"sandboxId,omitempty"`      // a new one drops connections from before
	Hostname       string            `json:"hostname,omitempty"`       // "": left as it is
	MachineID      string            `json:"machineId,omitempty"`      // 32 hex digits; "": made from SandboxID, else random
	ResolvConf     string            `json:"resolvConf,omitempty"`     // content of /etc/resolv.conf; "": left as it is
	Hosts          string            `json:"hosts,omitempty"`          // content of /etc/hosts; "": left as it is
}

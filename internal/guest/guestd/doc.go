// Package guestd serves a sandbox's users and its operator: the Connect
// services process.Process and filesystem.Filesystem and a handful of plain
// HTTP routes, in the wire format of the E2B SDKs. It translates; the work is
// done by packages process, files and initd.
//
// Who may call what:
//
//   - GET /health: anybody.
//   - POST /init, /sync, /end-processes: the operator.
//   - everything else: who has the access token that /init set, or the operator.
//     /files also takes a URL signed with the token. Before a token is set, and
//     between a restore and the /init that follows it, only the operator.
package guestd

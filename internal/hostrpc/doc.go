// Package hostrpc carries the law of internal/agent over Connect: Handler
// serves any agent.Agent, Client is one. Errors keep kind, code, field, message
// and remedy; their causes stay with the log of the side that has them.
package hostrpc

// Protocol is the version of the wire between control plane and agent. Each
// side refuses another one, by name.
const Protocol = 1

// protocolHeader carries Protocol with every request.
const protocolHeader = "Lehr-Host-Protocol"

// chunkBytes is how much of a file or stream one message carries.
const chunkBytes = 256 << 10

// maxMessage bounds a message in bytes, in both directions: what an agent says
// is not trusted either.
const maxMessage = 8 << 20

// Package debian makes the platform's base "minimal": a small Debian bookworm
// with apt, from a container registry where one answers at once, else with
// mmdebstrap from the Debian mirror that this machine itself uses.
package debian

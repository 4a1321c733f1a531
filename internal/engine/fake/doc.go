// Package fake is an engine without isolation, for tests of logic: sandboxes
// are simulated machines in this process's memory, with a file tree, processes,
// limits, pauses and snapshots, and it passes the engine suite.
//
// A World is the machine on which simulated sandboxes live; it outlives the
// engines that are opened on it, so that a test can crash an engine and open
// the next one. Faults make calls fail, hang or half-execute. Programs are the
// first processes: Probe answers the suite, Guest stands for a guest daemon (host/hosttest
// has a client of it, so that whole builds run on the fake).
package fake

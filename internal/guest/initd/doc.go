// Package initd does what a sandbox's first process owes the sandbox: it reaps,
// stays alive, gives the sandbox its identity (host name, resolver, machine id)
// and knows the operator's secret by its digest.
package initd

// Package plan turns a recipe and the configuration of its base into the plan
// of a build: every step in order of execution, with all that its execution
// needs and the key of its cache entry. It is pure: the same input gives the
// same plan, byte for byte, and nothing is executed, read or asked here.
//
// Make reports every problem it finds at once, as recipe.Problems. A plan is
// kept with the version it made (Encode, Decode), so that a snapshot can be
// made again from it.
package plan

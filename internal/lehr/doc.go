// Package lehr holds the words of Lehr: ids, digests, names, states with their
// table of legal moves, and the plain records (Build, Template, Version,
// Sandbox, Host, Key) that every layer speaks. It is pure: no I/O, no clock,
// no imports from the module.
package lehr

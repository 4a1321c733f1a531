// Package recipe reads recipes: Dockerfile syntax with START added. Quoting,
// JSON forms, heredocs and expansion are Docker's, because BuildKit's own
// packages do that work; what is here cuts a text into instructions (so that
// every problem is reported with its lines, not only the first), knows START
// and the flags --timeout and --user, and says clearly what is refused.
//
// A recipe comes in two forms that give the same instructions. In the array
// form (ParseRecipe) each element is exactly one instruction and line numbers
// count elements; in the file form (ParseFile, Split) they count lines.
//
// Everything here is pure and safe for concurrent use. Every error is a
// Problems and converts to *errs.Error through errors.As.
package recipe

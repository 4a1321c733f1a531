// Package pack turns what a user names as a base into a stream for the host
// that makes the image: a folder, a tar archive or an OCI image layout of the
// user's own machine. It runs in the command line, with the user's rights; no
// server opens a path that a caller names.
package pack

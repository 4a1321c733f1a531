// Package image keeps root file systems as uncompressed EROFS files that are
// named by the SHA-256 of their bytes, and makes them: from tar archives, from
// the layers of OCI images, from files in memory, and from an image plus what a
// sandbox wrote over it.
//
// An image is a pure function of its tree: names, types, permissions, owners,
// modification times, contents and hard links. What is not in that list is not
// in an image: access and change times, extended attributes (file capabilities
// and ACLs among them, because gVisor refuses inodes that have any), and three
// kinds of entries that belong to the machine and not to the file system: the
// contents of /proc, /sys and /dev, and all of /.lehr. Device nodes elsewhere
// are kept, although gVisor shows no character device of an image.
//
// What is read is never written into the machine's own file system: entries go
// into a tree in memory, contents into an unlinked file, so that no name in an
// archive can reach anything outside the image.
package image

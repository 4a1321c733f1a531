// Package erofs writes uncompressed EROFS images from a tree in memory and
// reads them back.
//
// The format is documented at https://docs.kernel.org/filesystems/erofs.html.
// Of it this package writes the part that the Linux kernel and gVisor both
// read and both map without copying: 4 KiB blocks, 64-byte inodes, no extended
// attributes, regular files in blocks of their own (gVisor cannot map a file
// whose tail lies beside its inode, so exec would fail), directories and
// symbolic links beside their inode where they fit.
//
// Writing is a pure function of the tree: the same names, metadata, contents
// and hard links give the same bytes. Reading goes through
// github.com/erofs/go-erofs, so an image is never judged by the code that
// wrote it.
package erofs

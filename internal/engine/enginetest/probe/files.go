package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// write writes args[1] mebibytes of incompressible data to args[0] and reports
// how many bytes got there, also when it fails.
func write(args []string) (string, error) {
	mb, err := strconv.Atoi(arg(args, 1))
	if err != nil {
		return "", err
	}
	f, err := os.Create(arg(args, 0))
	if err != nil {
		return "", err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	if _, err := rand.Read(block); err != nil {
		return "", err
	}
	var written int
	for range mb {
		n, err := f.Write(block)
		written += n
		if err != nil {
			return fmt.Sprintf("written=%d", written), err
		}
	}
	return fmt.Sprintf("written=%d", written), f.Sync()
}

// put creates or replaces args[0] with the text args[1] and mode args[2] (octal).
func put(args []string) (string, error) {
	if err := os.WriteFile(arg(args, 0), []byte(arg(args, 1)), 0o644); err != nil {
		return "", err
	}
	if arg(args, 2) == "" {
		return "", nil
	}
	return chmod([]string{arg(args, 0), arg(args, 2)})
}

// read returns the content of args[0].
func read(args []string) (string, error) {
	b, err := os.ReadFile(arg(args, 0))
	return string(b), err
}

// chmod sets the mode, setuid and friends included, of args[0] to args[1] (octal).
func chmod(args []string) (string, error) {
	mode, err := strconv.ParseUint(arg(args, 1), 8, 32)
	if err != nil {
		return "", err
	}
	return "", unix.Chmod(arg(args, 0), uint32(mode))
}

// chown gives args[0] to uid args[1] and gid args[2].
func chown(args []string) (string, error) {
	uid, err := strconv.Atoi(arg(args, 1))
	if err != nil {
		return "", err
	}
	gid, err := strconv.Atoi(arg(args, 2))
	if err != nil {
		return "", err
	}
	return "", os.Lchown(arg(args, 0), uid, gid)
}

// syncAll writes every cache to its file system.
func syncAll([]string) (string, error) {
	unix.Sync()
	return "", nil
}

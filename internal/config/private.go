package config

import (
	"errors"
	"os"
	"path/filepath"
)

// WritePrivate replaces a file as a whole by one that only its owner can read,
// whatever the mode of the one before was. It is synced: what was returned as
// written survives a crash.
func WritePrivate(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".private-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already after the rename
	if _, err := f.Write(b); err != nil {
		_ = f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path) // CreateTemp made it 0600
}

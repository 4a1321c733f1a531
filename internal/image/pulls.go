package image

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lehr-dev/lehr/internal/lehr"
)

const (
	pullSuffix = ".json"
	maxPull    = 8 << 20 // bytes of a record: a configuration and little else
)

// pullRecord is a record as stored.
type pullRecord struct {
	Key    string           `json:"key"`
	Digest lehr.Digest      `json:"digest"`
	Size   int64            `json:"size"`
	Config lehr.ImageConfig `json:"config"`
	Source string           `json:"source"`
}

// pullFile is where the record of a key lies: keys are not ours, names are.
func (s *Store) pullFile(key string) string {
	return filepath.Join(s.pulls, lehr.DigestOf([]byte(key)).Hex()+pullSuffix)
}

// Record remembers that what key names was made into an image, so that it need
// not be fetched again. The record is durable when Record returns nil, and goes
// with the image.
func (s *Store) Record(key string, m Imported) (err error) {
	b, err := json.Marshal(pullRecord{Key: key, Digest: m.Digest, Size: m.Size, Config: m.Config, Source: m.Source})
	if err != nil {
		return DiskError(err, "image.Record")
	}
	f, err := os.CreateTemp(s.tmp, tempRecord+"*")
	if err != nil {
		return DiskError(err, "image.Record")
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
			err = DiskError(err, "image.Record")
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.pullFile(key)); err != nil {
		return err
	}
	return syncDir(s.pulls)
}

// Recorded returns the image that key was made into, if it is still there, and
// notes its use. A damaged record counts as none.
func (s *Store) Recorded(key string) (Imported, bool) {
	r, ok := readPull(s.pullFile(key))
	if !ok || r.Key != key || !s.Has(r.Digest) {
		return Imported{}, false
	}
	s.Use(r.Digest)
	return Imported{Info: Info{Digest: r.Digest, Size: r.Size}, Config: r.Config, Source: r.Source}, true
}

func readPull(path string) (r pullRecord, ok bool) {
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxPull {
		return r, false
	}
	b, err := os.ReadFile(path)
	return r, err == nil && json.Unmarshal(b, &r) == nil
}

// Pulled returns the images that a record names.
func (s *Store) Pulled() (map[lehr.Digest]bool, error) {
	all := map[lehr.Digest]bool{}
	err := s.eachPull(func(_ string, r pullRecord) error {
		all[r.Digest] = true
		return nil
	})
	return all, err
}

// forget removes the records of an image, and those that are damaged.
func (s *Store) forget(d lehr.Digest) error {
	return s.eachPull(func(path string, r pullRecord) error {
		if r.Digest != d && r.Digest != "" {
			return nil
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return DiskError(err, "image.forget")
		}
		return nil
	})
}

func (s *Store) eachPull(f func(path string, r pullRecord) error) error {
	entries, err := os.ReadDir(s.pulls)
	if err != nil {
		return DiskError(err, "image.pulls")
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), pullSuffix) {
			continue
		}
		path := filepath.Join(s.pulls, e.Name())
		r, _ := readPull(path)
		if err := f(path, r); err != nil {
			return err
		}
	}
	return nil
}

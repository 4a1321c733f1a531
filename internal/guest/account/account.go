// Package account resolves users of the sandbox the way container runtimes do
// and lends their rights to one piece of work at a time. What it reads
// (/etc/passwd, /etc/group) belongs to the sandbox and is treated as hostile:
// only regular files, bounded sizes, bad lines are skipped.
package account

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
)

// User is a resolved user.
type User struct {
	Name   string // login name, or the number where it has none
	UID    uint32
	GID    uint32
	Groups []uint32 // all groups, GID among them
	Home   string   // absolute; "/" where none is known
	Shell  string   // "/bin/sh" where none is known
}

// Database is the sandbox's user database. It is safe for concurrent use.
type Database struct {
	passwd, group *cachedFile
}

// NewDatabase returns the database in the files passwd and group.
func NewDatabase(passwd, group string) *Database {
	return &Database{passwd: &cachedFile{path: passwd, fields: 7}, group: &cachedFile{path: group, fields: 4}}
}

// Resolve finds the user named by spec: "name", "uid", "name:group" or
// "uid:gid", names and numbers mixed at will. A number needs no entry; it then
// has group 0 and home "/". An explicit group is the only group. Errors:
// Invalid with code "user_unknown".
func (d *Database) Resolve(spec string) (User, error) {
	name, group, explicit := strings.Cut(spec, ":")
	u, found := d.lookup(name)
	if !found {
		id, err := parseID(name)
		if err != nil {
			return User{}, unknown(spec)
		}
		u = User{Name: name, UID: id, Home: "/", Shell: "/bin/sh"}
	}
	if !explicit {
		u.Groups = d.groupsOf(u)
		return u, nil
	}
	gid, err := d.resolveGroup(group)
	if err != nil {
		return User{}, unknown(spec)
	}
	u.GID, u.Groups = gid, []uint32{gid}
	return u, nil
}

// Names returns the names of users and groups as they are now.
func (d *Database) Names() Names {
	return Names{users: d.passwd.namesByID(), groups: d.group.namesByID()}
}

// Names translates numbers to names.
type Names struct {
	users, groups map[string]string
}

// User returns the login name of uid, or the number.
func (n Names) User(uid uint32) string { return nameOr(n.users, uid) }

// Group returns the name of gid, or the number.
func (n Names) Group(gid uint32) string { return nameOr(n.groups, gid) }

func nameOr(names map[string]string, id uint32) string {
	number := strconv.FormatUint(uint64(id), 10)
	if name, ok := names[number]; ok {
		return name
	}
	return number
}

// IsHomeOfOther reports whether dir is the home of a user other than u.
func (d *Database) IsHomeOfOther(dir string, u User) bool {
	if dir == "/" || dir == u.Home {
		return false
	}
	for _, e := range d.passwd.entries() {
		if e[5] == dir && e[0] != u.Name {
			return true
		}
	}
	return false
}

// lookup finds a passwd entry by name, then by number.
func (d *Database) lookup(name string) (User, bool) {
	id, notNumber := parseID(name)
	var byID User
	var found bool
	for _, e := range d.passwd.entries() {
		u, err := userFrom(e)
		if err != nil {
			continue
		}
		if u.Name == name {
			return u, true
		}
		if notNumber == nil && u.UID == id && !found {
			byID, found = u, true
		}
	}
	return byID, found
}

func userFrom(e []string) (User, error) {
	uid, err := parseID(e[2])
	if err != nil {
		return User{}, err
	}
	gid, err := parseID(e[3])
	if err != nil {
		return User{}, err
	}
	u := User{Name: e[0], UID: uid, GID: gid, Home: e[5], Shell: e[6]}
	if !filepath.IsAbs(u.Home) {
		u.Home = "/"
	}
	if u.Shell == "" {
		u.Shell = "/bin/sh"
	}
	return u, nil
}

// groupsOf returns u's own group and those that list it as a member.
func (d *Database) groupsOf(u User) []uint32 {
	groups := []uint32{u.GID}
	for _, e := range d.group.entries() {
		if !slices.Contains(strings.Split(e[3], ","), u.Name) {
			continue
		}
		gid, err := parseID(e[2])
		if err == nil && !slices.Contains(groups, gid) && len(groups) < maxGroups {
			groups = append(groups, gid)
		}
	}
	return groups
}

// maxGroups is Linux's NGROUPS_MAX.
const maxGroups = 65536

func (d *Database) resolveGroup(name string) (uint32, error) {
	for _, e := range d.group.entries() {
		if e[0] == name {
			return parseID(e[2])
		}
	}
	return parseID(name)
}

// parseID reads a user or group number; 2^32-1 means "no change" to the kernel
// and is therefore no number.
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, err
	}
	if n == 1<<32-1 || s[0] == '+' {
		return 0, strconv.ErrRange
	}
	return uint32(n), nil
}

func unknown(spec string) error {
	return errs.New(errs.Invalid, "invalid username: '%s'", spec).
		WithCode("user_unknown").WithField("user").
		WithRemedy("name a user of /etc/passwd in the sandbox, or a number")
}

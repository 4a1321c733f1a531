package plan

import (
	_ "embed"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/lehr-dev/lehr/internal/recipe"
)

// account is a parsed "name[:group]"; either part may be an id.
type account struct{ name, group string }

func (a account) String() string {
	if a.group == "" {
		return a.name
	}
	return a.name + ":" + a.group
}

// numeric reports whether nothing of a has to be looked up or made.
func (a account) numeric() bool {
	return isID(a.name) && (a.group == "" || isID(a.group))
}

// accountName is what a user or group may be called. What a base brings along
// is looked up, not judged, so it is wider than what useradd makes.
var accountName = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,254}\$?$`)

func parseAccount(s string) (account, error) {
	name, group, grouped := strings.Cut(s, ":")
	a := account{name: name, group: group}
	for _, part := range []string{name, group} {
		if part == "" && !grouped && name != "" {
			continue
		}
		if err := checkAccount(part); err != nil {
			return account{}, fmt.Errorf("%q: %w", clip(s), err)
		}
	}
	return a, nil
}

func checkAccount(part string) error {
	switch {
	case part == "":
		return fmt.Errorf("a user or group is empty")
	case strings.Trim(part, "0123456789") == "" && !isID(part):
		return fmt.Errorf("the id %s is too large", clip(part))
	case !accountName.MatchString(part):
		return fmt.Errorf("not the name of a user or group")
	}
	return nil
}

// isID reports whether s is a user or group id. The largest number means "no
// change" to chown, so it is none.
func isID(s string) bool {
	n, err := strconv.ParseUint(s, 10, 32)
	return err == nil && n < 1<<32-1 && s[0] != '+'
}

// userName expands and reads "name[:group]"; ok is false after a problem.
func (m *maker) userName(ins recipe.Instruction, word string) (account, bool) {
	expanded, ok := m.word(ins, word, m.ctx)
	if !ok {
		return account{}, false
	}
	a, err := parseAccount(expanded)
	if err != nil {
		m.invalid(ins, "user_invalid", err.Error(), "write a user, user:group or numeric ids such as 1000:1000")
		return account{}, false
	}
	return a, true
}

// user adds USER: a numeric one only changes what later steps inherit, a named
// one runs userScript.
func (m *maker) user(ins recipe.Instruction, u recipe.User, s Step) {
	s.Kind = KindUser
	a, ok := m.userName(ins, string(u))
	if !ok {
		m.add(s)
		return
	}
	m.ctx.User, m.config.User = a.String(), a.String()
	if a.numeric() || a.String() == "root" {
		m.add(s)
		return
	}
	s.Argv = []string{"/bin/sh", "-c", userScript, "lehr-user", a.name, a.group}
	s.Timeout = m.limit(m.in.Limits.Run)
	m.add(m.acting(m.bare, s))
}

// userScript sees to it that user $1 and group $2 exist.
//
//go:embed user.sh
var userScript string

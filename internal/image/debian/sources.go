package debian

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lehr-dev/lehr/internal/errs"
)

// suite is the Debian release that minimal is made of.
const suite = "bookworm"

// pockets are what belongs to a release beside itself; the first is the release.
var pockets = []string{"", "-updates", "-security"}

// source is one repository of an apt configuration.
type source struct {
	uri, suite string
	components []string
	signedBy   string
}

// line returns the source as a line of sources.list. Keys are left to the
// keyring package, which every Debian has.
func (s source) line() string {
	return "deb " + s.uri + " " + s.suite + " " + strings.Join(s.components, " ")
}

// mirrorSources returns the lines for sources.list when the mirror is given.
func mirrorSources(mirror string) []source {
	var all []source
	for _, pocket := range pockets[:2] { // security updates have a mirror of their own
		all = append(all, source{uri: mirror, suite: suite + pocket, components: []string{"main"}})
	}
	return all
}

// machineSources returns where this machine, a Debian of any release, would get
// bookworm from, judging by its apt configuration.
func machineSources(aptDir, osRelease string) ([]source, error) {
	configured, err := readSources(aptDir)
	if err != nil {
		return nil, err
	}
	codename, err := machineCodename(osRelease)
	if err != nil {
		return nil, err
	}
	var chosen []source
	for i, pocket := range pockets {
		found, ok := pick(configured, suite+pocket)
		if !ok {
			found, ok = pick(configured, codename+pocket)
		}
		if !ok && i == 0 {
			return nil, errs.New(errs.Unavailable, "the apt configuration in %s names no Debian mirror", aptDir).
				WithRemedy("Name a mirror in Lehr's configuration, or add one to %s/sources.list", aptDir)
		}
		if ok {
			found.suite = suite + pocket
			chosen = append(chosen, found)
		}
	}
	return chosen, nil
}

// pick returns the first source of Debian itself for the suite: one signed with
// Debian's keys, else one that names no key. Other vendors' sources name theirs.
func pick(all []source, suite string) (source, bool) {
	fits := func(s source) bool {
		return s.suite == suite && slices.Contains(s.components, "main") &&
			(strings.HasPrefix(s.uri, "http://") || strings.HasPrefix(s.uri, "https://"))
	}
	for _, signed := range []func(source) bool{
		func(s source) bool { return strings.HasPrefix(filepath.Base(s.signedBy), "debian-archive-") },
		func(s source) bool { return s.signedBy == "" },
	} {
		if i := slices.IndexFunc(all, func(s source) bool { return fits(s) && signed(s) }); i >= 0 {
			return all[i], true
		}
	}
	return source{}, false
}

// readSources reads sources.list and sources.list.d in apt's two formats.
func readSources(aptDir string) ([]source, error) {
	var all []source
	files := []string{filepath.Join(aptDir, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(aptDir, "sources.list.d", pattern))
		if err != nil {
			return nil, errs.Wrap(err, errs.Internal, "debian.readSources", "apt's configuration cannot be listed")
		}
		files = append(files, more...)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errs.New(errs.Unavailable, "apt's configuration cannot be read: %w", err)
		}
		if strings.HasSuffix(file, ".sources") {
			all = append(all, parseDeb822(b)...)
		} else {
			all = append(all, parseList(b)...)
		}
	}
	return all, nil
}

// parseList reads the one-line format: deb [option=value …] URI suite component….
// What it does not understand it leaves out, as apt itself reports it.
func parseList(b []byte) []source {
	var all []source
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		var s source
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if kind != "deb" {
			continue
		}
		if options, after, found := cutOptions(rest); found {
			rest = after
			for _, option := range strings.Fields(options) {
				if key, value, _ := strings.Cut(option, "="); key == "signed-by" {
					s.signedBy = value
				}
			}
		}
		words := strings.Fields(rest)
		if len(words) < 3 {
			continue
		}
		s.uri, s.suite, s.components = words[0], words[1], words[2:]
		all = append(all, s)
	}
	return all
}

func cutOptions(s string) (options, rest string, found bool) {
	s, found = strings.CutPrefix(strings.TrimSpace(s), "[")
	if !found {
		return "", "", false
	}
	return strings.Cut(s, "]")
}

// parseDeb822 reads the format of *.sources: paragraphs of fields, with lists
// of types, URIs and suites.
func parseDeb822(b []byte) []source {
	var all []source
	for _, p := range paragraphs(b) {
		if !slices.Contains(strings.Fields(p["types"]), "deb") || strings.EqualFold(p["enabled"], "no") {
			continue
		}
		for _, uri := range strings.Fields(p["uris"]) {
			for _, suite := range strings.Fields(p["suites"]) {
				all = append(all, source{uri, suite, strings.Fields(p["components"]), strings.TrimSpace(p["signed-by"])})
			}
		}
	}
	return all
}

// paragraphs splits a deb822 file into fields by lower-case name; values that
// go on over several lines are joined with newlines.
func paragraphs(b []byte) []map[string]string {
	var all []map[string]string
	var current map[string]string
	var last string
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			current = nil
		case line[0] == ' ' || line[0] == '\t':
			if current != nil {
				current[last] += "\n" + strings.TrimSpace(line)
			}
		default:
			if current == nil {
				current = make(map[string]string)
				all = append(all, current)
			}
			name, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(strings.TrimSpace(name))
			current[last] = strings.TrimSpace(value)
		}
	}
	return all
}

// machineCodename returns the release of this machine, when it is a Debian.
func machineCodename(osRelease string) (string, error) {
	b, err := os.ReadFile(osRelease)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", errs.New(errs.Unavailable, "%s cannot be read: %w", osRelease, err)
	}
	fields := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[name] = strings.Trim(value, `"'`)
	}
	if fields["ID"] != "debian" || fields["VERSION_CODENAME"] == "" {
		return suite, nil // its mirror has no bookworm unless it says so
	}
	return fields["VERSION_CODENAME"], nil
}

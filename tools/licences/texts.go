package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// file is one licence or notice of a module.
type file struct {
	name  string // LICENSE, NOTICE, …
	text  string
	kinds []string // licences that were recognised in it
}

var (
	fileName = regexp.MustCompile(`(?i)^(licen[sc]e|copying|notice|patents)([._-].*)?$`)
	// Licences of what is not linked: documentation and pictures.
	otherName = regexp.MustCompile(`(?i)[._-](docs|logo)([._-]|$)`)
	mainName  = regexp.MustCompile(`(?i)^(licen[sc]e|copying)(\.txt|\.md)?$`)
	copyleft  = regexp.MustCompile(`(?i)gnu (lesser |library |affero )?general public license`)
	spaces    = regexp.MustCompile(`\s+`)
)

// Each licence that Lehr accepts, and words that are in every copy of it.
var accepted = []struct {
	kind  string
	words []string
}{
	{"Apache-2.0", []string{"apache license", "version 2.0"}},
	{"MPL-2.0", []string{"mozilla public license", "2.0"}},
	{"BSD-3-Clause", []string{"redistribution and use in source and binary forms", "endorse or promote products"}},
	{"BSD-2-Clause", []string{"redistribution and use in source and binary forms"}},
	{"MIT", []string{"permission is hereby granted, free of charge", "the above copyright notice and this permission notice"}},
	{"ISC", []string{"permission to use, copy, modify, and", "distribute this software for any purpose with or without fee"}},
}

// classify returns the accepted licences whose words are in text.
func classify(text string) (kinds []string) {
	flat := strings.ToLower(spaces.ReplaceAllString(text, " "))
	for _, a := range accepted {
		all := !slices.ContainsFunc(a.words, func(w string) bool { return !strings.Contains(flat, w) })
		if all && !(a.kind == "BSD-2-Clause" && slices.Contains(kinds, "BSD-3-Clause")) {
			kinds = append(kinds, a.kind)
		}
	}
	return kinds
}

// read finds the module's files.
func (m *module) read() error {
	folders := make([]string, 0, len(m.folders))
	for dir := range m.folders {
		folders = append(folders, dir)
	}
	slices.Sort(folders) // the module's own comes first
	seen := map[string]bool{}
	for _, dir := range folders {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("%s: %w", m.path, err)
		}
		for _, e := range entries {
			if e.IsDir() || filepath.Ext(e.Name()) == ".go" || !fileName.MatchString(e.Name()) || otherName.MatchString(e.Name()) {
				continue
			}
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				return fmt.Errorf("%s: %w", m.path, err)
			}
			text := strings.TrimSpace(strings.ReplaceAll(string(b), "\r\n", "\n"))
			if !seen[text] {
				seen[text] = true
				m.files = append(m.files, file{name: e.Name(), text: text, kinds: classify(text)})
			}
		}
	}
	return nil
}

// accept returns why the module may not be linked, or nil.
func (m *module) accept() error {
	found := false
	var refused []error
	for _, f := range m.files {
		isMain := mainName.MatchString(f.name)
		found = found || isMain
		if isMain && len(f.kinds) == 0 {
			refused = append(refused, fmt.Errorf("%s: the licence in %s is not one that Lehr accepts", m.path, f.name))
		}
		if copyleft.MatchString(f.text) && !slices.Contains(f.kinds, "MPL-2.0") {
			refused = append(refused, fmt.Errorf("%s: %s speaks of the GNU General Public License", m.path, f.name))
		}
	}
	if !found {
		refused = append(refused, fmt.Errorf("%s: there is no licence file", m.path))
	}
	return errors.Join(refused...)
}

// kinds names the module's licences.
func (m *module) kinds() string {
	var all []string
	for _, f := range m.files {
		for _, k := range f.kinds {
			if mainName.MatchString(f.name) && !slices.Contains(all, k) {
				all = append(all, k)
			}
		}
	}
	return strings.Join(all, ", ")
}

const rule = "--------------------------------------------------------------------------------\n"

// render returns the list of modules and each text once, with the modules that
// have it.
func render(modules []*module) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Third-party software in Lehr: modules, licences and the programs they are linked into, then every text.\n"+
		"Written by tools/licences from the modules themselves; run it again instead of editing.\n\n")
	order, users := []file{}, map[string][]string{}
	for _, m := range modules {
		fmt.Fprintln(&out, strings.Join(strings.Fields(m.path+" "+m.version), " ")+": "+m.kinds()+" ("+strings.Join(m.programs, ", ")+")")
		for _, f := range m.files {
			if users[f.text] == nil {
				order = append(order, f)
			}
			users[f.text] = append(users[f.text], m.path)
		}
	}
	for _, f := range order {
		fmt.Fprintf(&out, "\n%s%s of %s\n%s\n%s\n", rule, f.name, strings.Join(users[f.text], ", "), rule, f.text)
	}
	return out.Bytes()
}

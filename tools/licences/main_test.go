package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const mit = "MIT License\n\nPermission is hereby granted, free of charge, to any person …\nThe above copyright notice and this permission\nnotice shall be included …\n"

// The checker bites: licences that are missing, unknown or not accepted are
// refused by name.
func TestAccept(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  string // part of the error; empty: accepted
		kinds string
	}{
		{"accepted", map[string]string{"LICENSE": mit, "NOTICE": "by us"}, "", "MIT"},
		{"of a linked package", map[string]string{"LICENSE": mit, "sub/LICENSE.txt": "Apache License, Version 2.0"}, "", "MIT, Apache-2.0"},
		{"of a package that is not linked", map[string]string{"LICENSE": mit, "not/LICENSE": "mine alone"}, "", "MIT"},
		{"of pictures", map[string]string{"LICENSE": mit, "LICENSE-LOGO": "GNU General Public License"}, "", "MIT"},
		{"missing", map[string]string{"README.md": mit}, "no licence file", ""},
		{"notice only", map[string]string{"NOTICE": mit}, "no licence file", ""},
		{"unknown", map[string]string{"LICENSE": "All rights reserved."}, "is not one that Lehr accepts", ""},
		{"copyleft", map[string]string{"COPYING": "GNU GENERAL PUBLIC LICENSE\nVersion 3"}, "is not one that Lehr accepts", ""},
		{"copyleft beside", map[string]string{"LICENSE": mit, "LICENSE-3RD-PARTY.md": "the GNU Lesser General Public License"}, "GNU General", "MIT"},
		{"copyleft of a linked package", map[string]string{"LICENSE": mit, "sub/COPYING": "GNU Affero General Public License"}, "is not one", "MIT"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, text := range tt.files {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m := &module{path: "example.org/m", folders: map[string]bool{dir: true, filepath.Join(dir, "sub"): true}}
			if err := m.read(); err != nil {
				t.Fatal(err)
			}
			err := m.accept()
			if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("accept() = %v, want %q", err, tt.want)
			}
			if got := m.kinds(); got != tt.kinds {
				t.Errorf("kinds() = %q, want %q", got, tt.kinds)
			}
		})
	}
}

func TestClassify(t *testing.T) {
	bsd := "Redistribution and use in source and binary\nforms, with or without modification"
	for text, want := range map[string]string{
		mit: "MIT",
		bsd: "BSD-2-Clause",
		bsd + " Neither the name may be used to endorse\nor promote products":                                  "BSD-3-Clause",
		"Apache License\n   Version 2.0, January 2004":                                                         "Apache-2.0",
		"Mozilla Public License, version 2.0":                                                                  "MPL-2.0",
		"Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee": "ISC",
		mit + bsd:      "BSD-2-Clause MIT",
		"Apache, once": "",
	} {
		if got := strings.Join(classify(text), " "); got != want {
			t.Errorf("classify(%.40q) = %q, want %q", text, got, want)
		}
	}
}

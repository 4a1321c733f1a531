package doctor

import (
	"bufio"
	"bytes"
	"context"
	"net/url"
	"slices"
	"strings"
)

// baseImage looks how the base template can be made.
func baseImage(_ context.Context, _ Options, m machine) Check {
	path, err := m.program("mmdebstrap")
	if err != nil {
		return optional(bad("apt-get install mmdebstrap",
			"no mmdebstrap: the base template minimal can only be made from a container registry that this machine reaches"))
	}
	return optional(good("%s makes the base template minimal where no registry answers", path))
}

// debianMirror looks where packages come from.
func debianMirror(_ context.Context, _ Options, m machine) Check {
	mirrors := machineMirrors(m)
	if len(mirrors) == 0 {
		return optional(bad("name one in /etc/apt/sources.list: deb MIRROR bookworm main",
			"apt's configuration names no Debian mirror: mmdebstrap then takes its own, which a closed network may not reach"))
	}
	return optional(good("%s", strings.Join(mirrors, ", ")))
}

// machineMirrors returns the Debian mirrors of the machine's apt configuration,
// each once.
func machineMirrors(m machine) []string {
	files := []string{"/etc/apt/sources.list"}
	for _, pattern := range []string{"/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"} {
		more, _ := m.glob(pattern) // fails only for a pattern that is none
		files = append(files, more...)
	}
	var out []string
	for _, file := range files {
		text, err := m.readFile(file)
		if err != nil {
			continue // apt itself says what is wrong with it
		}
		for _, mirror := range mirrorsIn(text) {
			if !slices.Contains(out, mirror) {
				out = append(out, mirror)
			}
		}
	}
	return out
}

// mirrorsIn returns the Debian mirrors in a file of apt's, in one-line style or
// as stanzas: those whose path ends in /debian, without slash at the end.
func mirrorsIn(text []byte) []string {
	var out []string
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "deb" && !strings.EqualFold(words[0], "URIs:") {
			continue
		}
		for _, word := range words[1:] {
			u, err := url.Parse(word)
			if err != nil || u.Host == "" || !strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/debian") {
				continue
			}
			u.User = nil // passwords stay where they are
			out = append(out, strings.TrimRight(u.String(), "/"))
		}
	}
	return out
}

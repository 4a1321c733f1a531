package recipe

import (
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/lehr-dev/lehr/internal/lehr"
)

// DefaultPlatform is the platform of builds that name none.
const DefaultPlatform = "linux/amd64"

func from(in *instructions.Stage) (Body, *Problem) {
	f := From{Base: in.BaseName, Platform: in.Platform}
	if strings.Contains(f.Base, "$") {
		return f, nil // checked by Base, with the build arguments
	}
	_, p := parseBase(f.Base)
	return f, p
}

// checkFrom refuses a FROM that is not the first instruction but for ARG, also
// behind instructions that were refused themselves.
func (r *reader) checkFrom() {
	seen, others := false, false
	for _, c := range r.chunks {
		isFrom := keywordOf(c.keyword()) == KeywordFrom
		switch {
		case isFrom && seen:
			r.fail(unsupported("multi_stage", "a second FROM: builds of several stages are not supported yet").
				remedy("make a template of each stage and name it in the FROM of the next"), c.line, c.endLine)
		case isFrom && others:
			r.fail(invalid("from_position", "FROM must be the first instruction, only ARG may precede it"), c.line, c.endLine)
		}
		seen = seen || isFrom
		others = others || keywordOf(c.keyword()) != KeywordArg
	}
}

// Split divides the recipe at its FROM: the ARG instructions that precede it,
// FROM itself, and the instructions that are steps. Without FROM everything is
// a step.
func (r Recipe) Split() (global []Instruction, from *Instruction, steps []Instruction) {
	for i, ins := range r.Instructions {
		if ins.Keyword == KeywordFrom {
			return r.Instructions[:i], &r.Instructions[i], r.Instructions[i+1:]
		}
	}
	return nil, nil, r.Instructions
}

// BaseRef is the name of a base and what it may mean: a template, else an image
// of a registry. At least one of the two is set.
type BaseRef struct {
	Template lehr.Ref      // zero where it cannot be a template
	Image    lehr.ImageRef // zero where it cannot be an image
	text     string
}

// String is the base as builds show it: a template without its default tag, an
// image as it was written.
func (b BaseRef) String() string {
	if b.Template.Name == "" {
		return b.text
	}
	return strings.TrimSuffix(b.Template.String(), ":"+lehr.DefaultTag)
}

// same reports whether two names mean the same.
func (b BaseRef) same(other BaseRef) bool {
	return b.Template == other.Template && (b.Template.Name != "" || b.Image == other.Image)
}

// Base says what the recipe starts from: base as the request gives it, FROM
// when base is empty, and the platform's minimal when there is neither. Both
// given and different is a problem. FROM is expanded with the ARGs before it,
// the build arguments and the platform ("" is DefaultPlatform).
func (r Recipe) Base(base, platform string, buildArgs map[string]string) (BaseRef, error) {
	var given, named BaseRef
	var problems Problems
	if base != "" {
		ref, p := parseBase(base)
		if p != nil {
			problems = append(problems, *p.in(fieldBase))
		}
		given = ref
	}
	_, from, _ := r.Split()
	if from != nil {
		ref, p := r.expandFrom(*from, platform, buildArgs)
		if p != nil {
			problems = append(problems, *p.at(from.Line, from.EndLine))
		}
		named = ref
	}
	if err := problems.Err(); err != nil {
		return BaseRef{}, err
	}
	switch {
	case base != "" && from != nil && !given.same(named):
		return BaseRef{}, Problems{*invalid("base_conflict", "FROM names %s, base_template %s", named, given).
			at(from.Line, from.EndLine).remedy("leave one of them out")}
	case base != "":
		return given, nil
	case from != nil:
		return named, nil
	}
	return BaseRef{Template: lehr.Ref{Name: lehr.MinimalTemplate, Tag: lehr.DefaultTag}, text: lehr.MinimalTemplate}, nil
}

func (r Recipe) expandFrom(ins Instruction, platform string, buildArgs map[string]string) (BaseRef, *Problem) {
	if platform == "" {
		platform = DefaultPlatform
	}
	f, ok := ins.Body.(From)
	if !ok {
		return BaseRef{}, invalid(codeSyntax, "cannot be read as FROM")
	}
	x := NewExpander()
	env, p := r.Globals(x, platform, buildArgs)
	if p != nil {
		return BaseRef{}, p
	}
	name, _, p := x.Word(f.Base, ins.Escape, env)
	if p != nil {
		return BaseRef{}, p
	}
	wanted, _, p := x.Word(f.Platform, ins.Escape, env)
	if p != nil {
		return BaseRef{}, p
	}
	if wanted != "" && wanted != platform && wanted != "linux" {
		return BaseRef{}, unsupported("platform_unsupported", "FROM --platform=%s: this installation builds for %s", clip(wanted), platform).
			remedy("leave the flag out")
	}
	return parseBase(name)
}

// parseBase reads the name of a template or of an image.
func parseBase(s string) (BaseRef, *Problem) {
	switch {
	case s == "":
		return BaseRef{}, invalid("from_invalid", "names no base").remedy("name a template, an image, or %s", lehr.MinimalTemplate)
	case strings.EqualFold(s, "scratch"):
		return BaseRef{}, unsupported("from_scratch", "an empty base (scratch) is not supported yet").
			remedy("name a template, an image, or %s", lehr.MinimalTemplate)
	case strings.Contains(s, "://"):
		return BaseRef{}, invalid("from_invalid", "%q is a URL, not a base", clip(s)).remedy("write HOST/NAME:TAG, without a scheme")
	}
	b := BaseRef{text: s}
	image, imageErr := lehr.ParseImageRef(s)
	if imageErr == nil {
		b.Image = image
	}
	if onlyImage(s) {
		if imageErr != nil {
			return BaseRef{}, invalid("from_invalid", "%q is not an image: %s", clip(s), imageErr).remedy("write [HOST/]NAME[:TAG][@sha256:…]")
		}
		return b, nil
	}
	ref, err := lehr.ParseRef(s)
	if err == nil {
		b.Template = ref
	}
	if ref.Name == lehr.MinimalTemplate && ref.Team == "" {
		b.Image = lehr.ImageRef{} // the platform's own name
	}
	if err != nil && imageErr != nil {
		return BaseRef{}, invalid("from_invalid", "%q is neither a template nor an image: %s", clip(s), err).
			remedy("write [team/]name[:tag], or the name of an image")
	}
	return b, nil
}

// onlyImage reports whether a name can only be an image's: it has a digest, a
// registry, or more than one slash.
func onlyImage(s string) bool {
	host, _, slashed := strings.Cut(s, "/")
	return strings.Contains(s, "@") || strings.Count(s, "/") > 1 ||
		slashed && (strings.ContainsAny(host, ".:") || strings.EqualFold(host, "localhost"))
}

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

// Base says which template the recipe starts from: base as the request gives
// it, FROM when base is empty, and the platform's minimal when there is neither.
// Both given and different is a problem. FROM is expanded with the ARGs before
// it, the build arguments and the platform ("" is DefaultPlatform).
func (r Recipe) Base(base, platform string, buildArgs map[string]string) (lehr.Ref, error) {
	var given, named lehr.Ref
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
		return lehr.Ref{}, err
	}
	switch {
	case base != "" && from != nil && given != named:
		return lehr.Ref{}, Problems{*invalid("base_conflict", "FROM names %s, base_template %s", named, given).
			at(from.Line, from.EndLine).remedy("leave one of them out")}
	case base != "":
		return given, nil
	case from != nil:
		return named, nil
	}
	return lehr.Ref{Name: lehr.MinimalTemplate, Tag: lehr.DefaultTag}, nil
}

func (r Recipe) expandFrom(ins Instruction, platform string, buildArgs map[string]string) (lehr.Ref, *Problem) {
	if platform == "" {
		platform = DefaultPlatform
	}
	f, ok := ins.Body.(From)
	if !ok {
		return lehr.Ref{}, invalid(codeSyntax, "cannot be read as FROM")
	}
	x := NewExpander()
	env, p := r.Globals(x, platform, buildArgs)
	if p != nil {
		return lehr.Ref{}, p
	}
	name, _, p := x.Word(f.Base, ins.Escape, env)
	if p != nil {
		return lehr.Ref{}, p
	}
	wanted, _, p := x.Word(f.Platform, ins.Escape, env)
	if p != nil {
		return lehr.Ref{}, p
	}
	if wanted != "" && wanted != platform && wanted != "linux" {
		return lehr.Ref{}, unsupported("platform_unsupported", "FROM --platform=%s: this installation builds for %s", clip(wanted), platform).
			remedy("leave the flag out")
	}
	return parseBase(name)
}

// parseBase reads a reference to a template and refuses those to a registry.
func parseBase(s string) (lehr.Ref, *Problem) {
	host, _, slashed := strings.Cut(s, "/")
	switch {
	case s == "":
		return lehr.Ref{}, invalid("from_invalid", "names no base").remedy("name a template, or %s", lehr.MinimalTemplate)
	case strings.EqualFold(s, "scratch"):
		return lehr.Ref{}, unsupported("from_scratch", "an empty base (scratch) is not supported yet").
			remedy("name a template, or %s", lehr.MinimalTemplate)
	case strings.Contains(s, "@"), strings.Contains(s, "://"), strings.Count(s, "/") > 1,
		slashed && (strings.ContainsAny(host, ".:") || host == "localhost"):
		return lehr.Ref{}, unsupported("from_registry", "%q is an image of a registry, which is not supported yet", clip(s)).
			remedy("name a template (lehr templates ls), or %s", lehr.MinimalTemplate)
	}
	ref, err := lehr.ParseRef(s)
	if err != nil {
		return lehr.Ref{}, invalid("from_invalid", "%q is not a template: %s", clip(s), err).
			remedy("write [team/]name[:tag]")
	}
	return ref, nil
}

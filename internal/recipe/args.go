package recipe

import (
	"slices"
	"strings"
)

// IsProxyArg reports whether name is one of Docker's predefined build arguments
// for proxies: they need no ARG, commands see them, and neither cache keys nor
// the template keep them.
func IsProxyArg(name string) bool {
	switch strings.ToUpper(name) {
	case "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY":
		return name == strings.ToUpper(name) || name == strings.ToLower(name)
	}
	return false
}

// PlatformArgs returns Docker's predefined arguments that describe a platform
// such as "linux/amd64" or "linux/arm/v7". A recipe sees those it declares.
func PlatformArgs(platform string) Vars {
	parts := append(strings.SplitN(platform, "/", 3), "", "")
	var v Vars
	for _, side := range []string{"TARGET", "BUILD"} {
		v.Set(side+"PLATFORM", platform)
		v.Set(side+"OS", parts[0])
		v.Set(side+"ARCH", parts[1])
		v.Set(side+"VARIANT", parts[2])
	}
	return v
}

// Globals returns what FROM is expanded with, and what a later ARG without a
// value falls back to: the platform's arguments and the ARGs before FROM.
func (r Recipe) Globals(x *Expander, platform string, buildArgs map[string]string) (Vars, *Problem) {
	env := PlatformArgs(platform)
	global, _, _ := r.Split()
	for _, ins := range global {
		args, _ := ins.Body.(Args)
		for _, a := range args {
			value, ok, p := x.globalArg(a, ins.Escape, env, buildArgs)
			if p != nil {
				return nil, p.at(ins.Line, ins.EndLine)
			}
			if len(env) > MaxEnvVars {
				return nil, invalid("env_too_large", "more than %d arguments are declared", MaxEnvVars).at(ins.Line, ins.EndLine)
			}
			if ok {
				env.Set(a.Name, value)
			}
		}
	}
	return env, nil
}

func (x *Expander) globalArg(a Arg, escape rune, env Vars, buildArgs map[string]string) (string, bool, *Problem) {
	if value, given := buildArgs[a.Name]; given {
		return value, true, nil
	}
	if a.Default == nil {
		return "", false, nil
	}
	value, _, p := x.Word(*a.Default, escape, env)
	return value, true, p
}

// CheckBuildArgs refuses build arguments that no ARG declares, and values that
// no environment can hold. The error is a Problems.
func (r Recipe) CheckBuildArgs(buildArgs map[string]string) error {
	declared := map[string]bool{}
	for _, ins := range r.Instructions {
		args, _ := ins.Body.(Args)
		for _, a := range args {
			declared[a.Name] = true
		}
	}
	var problems Problems
	for name, value := range buildArgs {
		if p := checkBuildArg(name, value, declared[name]); p != nil {
			problems = append(problems, *p.in(fieldBuildArgs))
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int { return strings.Compare(a.Message, b.Message) })
	return problems.Err()
}

func checkBuildArg(name, value string, declared bool) *Problem {
	if !declared && !IsProxyArg(name) {
		return invalid("build_arg_unknown", "no ARG declares %q", clip(name)).
			remedy("add ARG %s to the recipe, or leave the argument out", clip(name))
	}
	if p := checkText(value); p != nil {
		p.Message = "the value of " + name + " " + p.Message
		return p
	}
	return checkArg("the value of "+name, name+"="+value)
}

// Package doctor looks whether a machine can be a host of sandboxes: each check
// says what was found and, where that will not do, what to do about it. It
// changes nothing that outlives it. lehr doctor prints the checks and make demo
// asks them first.
package doctor

import (
	"context"
	"fmt"
)

// Check is the outcome of one look at the machine.
type Check struct {
	// Name says what was looked at, the same in every release.
	Name string `json:"name"`
	// OK says that it will do.
	OK bool `json:"ok"`
	// Optional says that without it the machine still works, with less comfort or
	// speed; Detail says with what less.
	Optional bool `json:"optional"`
	// Detail is what was found, and why it matters where it will not do.
	Detail string `json:"detail"`
	// Remedy is what to do; empty where OK.
	Remedy string `json:"remedy"`
}

// Options say what the machine is to be used for.
type Options struct {
	// DataDir is the data folder; it need not exist yet. Empty: not looked at.
	DataDir string
	// Listen is the address of the API, as in --listen. Empty: not looked at.
	Listen string
}

// Run looks at everything, in the same order every time. When ctx ends, the
// checks that were not made yet say so. Two runs may overlap.
func Run(ctx context.Context, opts Options) []Check { return run(ctx, opts, thisMachine()) }

// Ready reports whether every check that is not optional is OK.
func Ready(checks []Check) bool {
	for _, c := range checks {
		if !c.OK && !c.Optional {
			return false
		}
	}
	return true
}

// look makes one check.
type look func(context.Context, Options, machine) Check

// run makes the checks on m.
func run(ctx context.Context, opts Options, m machine) []Check {
	looks := []struct {
		name string
		look look
	}{
		{"platform", platform},
		{"root", root},
		{"kernel", kernel},
		{"network namespaces", networkNamespaces},
		{"veth", deviceLinks},
		{"nftables", nftables},
		{"forwarding", forwarding},
		{"cgroups", cgroups},
		{"seccomp", seccomp},
		{"ptrace", ptrace},
		{"memory", memory},
		{"open files", openFiles},
		{"data folder", dataFolder},
		{"disk", disk},
		{"listen address", listenAddress},
		{"resolver", resolver},
		{"base image", baseImage},
		{"debian mirror", debianMirror},
		{"erofs", erofs},
	}
	checks := make([]Check, 0, len(looks))
	for _, l := range looks {
		c := Check{Detail: "not looked at: the time was over", Remedy: "run it again"}
		if ctx.Err() == nil {
			c = l.look(ctx, opts, m)
		}
		c.Name = l.name
		checks = append(checks, c)
	}
	return checks
}

// good is a check that is OK.
func good(format string, args ...any) Check {
	return Check{OK: true, Detail: fmt.Sprintf(format, args...)}
}

// bad is a check that is not.
func bad(remedy, format string, args ...any) Check {
	return Check{Remedy: remedy, Detail: fmt.Sprintf(format, args...)}
}

// optional makes c optional.
func optional(c Check) Check {
	c.Optional = true
	return c
}

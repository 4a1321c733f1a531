package doctor

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// minKernel is the first kernel with what the network's rules use (reject in
// prerouting came with 5.9), counted from the long-term release after it.
var minKernel = [2]int{5, 10}

// neededCapabilities are the bits of capabilities(7) an agent cannot do
// without.
var neededCapabilities = []struct {
	name string
	bit  int
}{{"CAP_NET_ADMIN", 12}, {"CAP_SYS_PTRACE", 19}, {"CAP_SYS_ADMIN", 21}}

var releasePattern = regexp.MustCompile(`^(\d+)\.(\d+)`)

// platform checks what the binary runs on.
func platform(_ context.Context, _ Options, m machine) Check {
	found := m.system + "/" + m.architecture
	if m.system != "linux" || m.architecture != "amd64" && m.architecture != "arm64" {
		return bad("run the agent on linux/amd64 or linux/arm64; the command line works anywhere",
			"%s: sandboxes need Linux on amd64 or arm64", found)
	}
	return good("%s", found)
}

// root checks that the process may do what an agent does.
func root(_ context.Context, _ Options, m machine) Check {
	if m.userID != 0 {
		return bad("run it as root: sudo lehr …", "user %d: namespaces, networks and cgroups need root", m.userID)
	}
	status, err := m.readFile("/proc/self/status")
	if err != nil {
		return bad("mount /proc", "the capabilities could not be read: %v", err)
	}
	set, err := strconv.ParseUint(field(status, "CapEff:"), 16, 64)
	if err != nil {
		return bad("mount /proc of this machine", "the capabilities could not be read: %v", err)
	}
	var missing []string
	for _, c := range neededCapabilities {
		if set&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return bad("give the container or service these capabilities (docker run --privileged, or CapabilityBoundingSet= in systemd)",
			"root without %s", strings.Join(missing, ", "))
	}
	return good("root, with the capabilities needed")
}

// kernel checks the release.
func kernel(_ context.Context, _ Options, m machine) Check {
	release, err := m.kernel()
	if err != nil {
		return bad("run it on Linux", "the kernel's release could not be read: %v", err)
	}
	parts := releasePattern.FindStringSubmatch(release)
	if parts == nil {
		return bad("use a kernel of 5.10 or later", "%q is no release we can read", release)
	}
	major, _ := strconv.Atoi(parts[1]) // digits by the pattern; what overflows is new enough
	minor, _ := strconv.Atoi(parts[2])
	if slices.Compare([]int{major, minor}, minKernel[:]) < 0 {
		return bad("use a kernel of 5.10 or later", "%s lacks what the network's rules need", release)
	}
	return good("%s", release)
}

// networkNamespaces tries to make one.
func networkNamespaces(_ context.Context, _ Options, m machine) Check {
	if err := m.network().Namespace; err != nil {
		return bad("run as root; use a kernel with CONFIG_NET_NS; in a container, allow unshare",
			"none could be made, and every sandbox has its own: %v", err)
	}
	return good("one was made")
}

// deviceLinks tries to make a veth pair.
func deviceLinks(_ context.Context, _ Options, m machine) Check {
	s := m.network()
	if err := errors.Join(s.Namespace, s.Device); err != nil {
		return bad("load the module: modprobe veth (CONFIG_VETH)", "no pair could be made, and each sandbox is joined to the host by one: %v", err)
	}
	return good("a pair was made")
}

// nftables tries to write the rules.
func nftables(_ context.Context, _ Options, m machine) Check {
	s := m.network()
	if err := errors.Join(s.Namespace, s.Rules); err != nil {
		return bad("load the modules: modprobe -a nf_tables nft_ct nft_nat nft_masq nft_redir nft_fib_inet nft_reject_inet",
			"the rules that keep sandboxes apart could not be written: %v", err)
	}
	return good("the rules were written and removed")
}

// forwarding looks for firewalls that let no sandbox out.
func forwarding(_ context.Context, _ Options, m machine) Check {
	const remedy = "let your firewall forward what comes from and goes to devices lh*, " +
		"as nft add rule inet firewall forward iifname \"lh*\" accept, and the same with oifname"
	chain, err := m.blocker()
	switch {
	case err != nil:
		return optional(bad("run it as root", "the firewall could not be looked at: %v", err))
	case chain != "":
		return optional(bad(remedy, "the nftables chain %q drops what is forwarded: sandboxes reach nothing", chain))
	}
	legacy, err := m.readFile("/proc/net/ip_tables_names")
	if err == nil && slices.Contains(strings.Fields(string(legacy)), "filter") {
		return optional(bad("look with iptables-legacy -S FORWARD; where its policy is DROP: "+
			"iptables-legacy -I FORWARD -i lh+ -j ACCEPT and the same with -o",
			"legacy iptables is in use, whose rules cannot be seen from here: where it drops what is forwarded, sandboxes reach nothing"))
	}
	return optional(good("no firewall of this machine stops what sandboxes send"))
}

// cgroups looks for the controllers of limits, in a unified hierarchy or one
// each.
func cgroups(_ context.Context, _ Options, m machine) Check {
	const remedy = "mount a cgroup hierarchy with these controllers; on the kernel's command line: cgroup_enable=memory"
	needed := []string{"cpu", "memory", "pids"}
	version := 2
	var have []string
	if unified, err := m.readFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		have = strings.Fields(string(unified))
	} else {
		mounts, err := m.readFile("/proc/self/mounts")
		if err != nil {
			return bad(remedy, "the mounts could not be read: %v", err)
		}
		version, have = 1, mountedControllers(mounts)
	}
	var missing []string
	for _, name := range needed {
		if !slices.Contains(have, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return bad(remedy, "version %d without %s: limits could not be kept", version, strings.Join(missing, ", "))
	}
	return good("version %d with %s", version, strings.Join(needed, ", "))
}

// mountedControllers returns the controllers of cgroup v1 mounts.
func mountedControllers(mounts []byte) []string {
	var out []string
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) >= 4 && fields[2] == "cgroup" {
			out = append(out, strings.Split(fields[3], ",")...)
		}
	}
	return out
}

// seccomp checks what gVisor's platform systrap catches system calls with.
func seccomp(_ context.Context, _ Options, m machine) Check {
	const remedy = "use a kernel with CONFIG_SECCOMP_FILTER"
	actions, err := m.readFile("/proc/sys/kernel/seccomp/actions_avail")
	if errors.Is(err, os.ErrNotExist) {
		return bad(remedy, "the kernel has no seccomp filters, with which system calls of sandboxes are caught")
	}
	if err != nil {
		return bad(remedy, "the seccomp actions could not be read: %v", err)
	}
	if !slices.Contains(strings.Fields(string(actions)), "trap") {
		return bad(remedy, "seccomp knows %q but not trap, with which system calls of sandboxes are caught", strings.TrimSpace(string(actions)))
	}
	return good("filters with trap")
}

// ptrace checks that nothing forbids it to root.
func ptrace(_ context.Context, _ Options, m machine) Check {
	scope, err := m.readFile("/proc/sys/kernel/yama/ptrace_scope")
	if errors.Is(err, os.ErrNotExist) {
		return good("not restricted")
	}
	value := strings.TrimSpace(string(scope))
	if err != nil || value == "3" {
		return bad("set kernel.yama.ptrace_scope to 2 or less in /etc/sysctl.d and boot again: 3 cannot be taken back",
			"ptrace_scope is %q: sandbox processes cannot be set up (%v)", value, err)
	}
	return good("ptrace_scope %s", value)
}

// erofs looks whether the kernel mounts images.
func erofs(_ context.Context, _ Options, m machine) Check {
	systems, err := m.readFile("/proc/filesystems")
	if err != nil || !slices.Contains(strings.Fields(string(systems)), "erofs") {
		return optional(bad("modprobe erofs", "the kernel does not mount EROFS (yet); sandboxes read images without it, only looking into one with mount needs it"))
	}
	return optional(good("the kernel mounts EROFS"))
}

// field returns the word behind a label at the start of a line.
func field(text []byte, label string) string {
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == label {
			return words[1]
		}
	}
	return ""
}

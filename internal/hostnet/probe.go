package hostnet

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Support says what the kernel can do for a Network. A nil error means it can.
type Support struct {
	Namespace error // network namespaces
	Device    error // veth pairs; not tried without Namespace
	Rules     error // nftables with everything our rules use; not tried without Namespace
}

// Probe tries what Open and Attach need, in a network namespace of its own that
// is gone when it returns. It changes nothing on the host.
func Probe() Support {
	ns, err := newNamespace()
	if err != nil {
		return Support{Namespace: err}
	}
	defer ns.close()
	return Support{Device: probeDevice(ns), Rules: probeRules(ns)}
}

// probeDevice makes a veth pair.
func probeDevice(ns *namespace) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = devicePrefix + "probe0"
	if err := ns.handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: devicePrefix + "probe1"}); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	return nil
}

// probeRules writes the table that a Network writes.
func probeRules(ns *namespace) error {
	n, err := newNames("probe")
	if err != nil {
		return err
	}
	// The library visits the namespace on its thread, which must not be the
	// process's main one.
	offMainThread(func() bool {
		var f *filter
		if f, err = openFilter(newRuleset(n, n.port), nftables.WithNetNSFd(int(ns.file.Fd()))); err == nil {
			err = f.remove()
		}
		return true
	})
	return err
}

// ForwardBlocker returns the nftables chain of another program that drops what
// is forwarded unless its own rules say otherwise, and that has no DOCKER-USER
// to put exceptions into: sandboxes reach nothing through it. It returns ""
// where there is none. Legacy iptables is not seen.
func ForwardBlocker() (string, error) {
	conn, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return "", fmt.Errorf("list nftables chains: %w", err)
	}
	docker, blocker := false, ""
	for _, c := range chains {
		docker = docker || isDockerUser(c)
		ipv4 := c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyINet
		forwards := c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward
		if ipv4 && forwards && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			blocker = c.Table.Name + " " + c.Name
		}
	}
	if docker && blocker == dockerTable+" FORWARD" {
		return "", nil
	}
	return blocker, nil
}

package hostnet

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// resolverPort is where sandboxes ask for names.
const resolverPort = 53

// quotingTypes are the ICMP messages that quote a packet and that programs need
// to see: destination unreachable (with it path MTU), source quench, time
// exceeded and parameter problem.
var quotingTypes = []byte{3, 4, 11, 12}

// icmpRedirect would have the host change its routes.
const icmpRedirect = 5

// priorityLast puts a chain behind NAT and filters of every kind: addresses are
// rewritten there for the last step to the sandbox, or to the socket.
var priorityLast = nftables.ChainPriorityRef(300)

// ruleset is the nftables table of one instance. Its chains are the same for
// every lease; what differs is in the maps and sets, keyed by host device:
//
//	outer   device → outer address
//	policy  device → goto its own chain, where the policy is not the default one
//	mute    devices the resolver does not answer
type ruleset struct {
	names names
	port  uint16 // of the resolver

	table                        *nftables.Table
	outer, policy, mute, quoting *nftables.Set
	chains                       []*chain
}

// chain is a chain with its rules.
type chain struct {
	*nftables.Chain
	rules [][]expr.Any
}

// newRuleset describes the table of an instance whose resolver listens on port;
// it does not touch the kernel.
func newRuleset(n names, port uint16) *ruleset {
	r := &ruleset{names: n, port: port, table: &nftables.Table{Family: nftables.TableFamilyINet, Name: n.table}}
	// Ids are set here because the library would draw them from a counter that
	// connections of several networks would race for.
	r.outer = &nftables.Set{
		Table: r.table, ID: 1, Name: "outer", IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeIPAddr,
	}
	r.policy = &nftables.Set{
		Table: r.table, ID: 2, Name: "policy", IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict,
	}
	r.mute = &nftables.Set{Table: r.table, ID: 3, Name: "mute", KeyType: nftables.TypeIFName}
	r.quoting = &nftables.Set{Table: r.table, ID: 4, Name: "quoting", KeyType: nftables.TypeICMPType}
	egress := r.egress()
	r.describeArrival(egress)
	r.describePassage(egress)
	r.describeHost()
	r.describeDeparture()
	return r
}

// sets returns every set and map.
func (r *ruleset) sets() []*nftables.Set {
	return []*nftables.Set{r.outer, r.policy, r.mute, r.quoting}
}

// regular adds a chain that others jump to.
func (r *ruleset) regular(name string, rules ...[]expr.Any) *nftables.Chain {
	c := &nftables.Chain{Table: r.table, Name: name}
	r.chains = append(r.chains, &chain{Chain: c, rules: rules})
	return c
}

// base adds a chain the kernel calls.
func (r *ruleset) base(c nftables.Chain, rules ...[]expr.Any) {
	c.Table = r.table
	r.chains = append(r.chains, &chain{Chain: &c, rules: rules})
}

// egress is the policy: it refuses, or comes back.
func (r *ruleset) egress() *nftables.Chain {
	rules := [][]expr.Any{rule(dispatch(r.policy))}
	for _, prefix := range fixedDenied {
		rules = append(rules, rule(addressIn(offsetDestination, prefix), refuse()))
	}
	for _, prefix := range privateDenied {
		rules = append(rules, rule(addressIn(offsetDestination, prefix), refuse()))
	}
	return r.regular("egress", rules...)
}

// describeArrival gives a packet from a sandbox its outer address before
// connection tracking sees it, and drops what no sandbox may send.
func (r *ruleset) describeArrival(egress *nftables.Chain) {
	drop := verdict(expr.VerdictDrop)
	arrival := r.regular("arrival",
		rule(notIPv4(), drop),
		rule(addressIsNot(offsetSource, InnerAddr()), drop),
		rule(icmpType(icmpRedirect), drop),
		// An ICMP error quotes a packet that was sent to the inner address.
		rule(r.quotes(), quotedIn(offsetDestination, hostPrefix(InnerAddr())),
			outerOf(expr.MetaKeyIIFNAME, r.outer), writeQuoted(offsetDestination)),
		rule(outerOf(expr.MetaKeyIIFNAME, r.outer), writeAddress(offsetSource)),
		rule(addressIs(offsetSource, InnerAddr()), drop), // a device without a lease
		rule(addressIs(offsetDestination, gateway), verdict(expr.VerdictAccept)),
		rule(notUnicast(), drop),
		// Here for the address the sandbox asked for, and again when it is
		// forwarded, for the address that NAT of others made of it.
		rule(jump(egress)),
	)
	r.base(nftables.Chain{
		Name: "prerouting", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	},
		rule(fromDevices(r.names.prefix), jump(arrival)),
		rule(notFromDevices(devicePrefix), ipv4(), addressIs(offsetDestination, gateway), drop),
		rule(notFromDevices(devicePrefix), ipv4(), addressIn(offsetSource, outerPrefix), drop),
	)
	toResolver := func(transport byte) []expr.Any {
		return rule(fromDevices(r.names.prefix), ipv4(), addressIs(offsetDestination, gateway),
			protocol(transport), toPort(resolverPort), redirectTo(r.port))
	}
	r.base(nftables.Chain{
		Name: "resolver", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	}, toResolver(unix.IPPROTO_UDP), toResolver(unix.IPPROTO_TCP))
}

// describePassage decides what is forwarded: out what the policy lets, in only
// answers.
func (r *ruleset) describePassage(egress *nftables.Chain) {
	drop, accept := verdict(expr.VerdictDrop), verdict(expr.VerdictAccept)
	out := r.regular("out",
		rule(toDevices(devicePrefix), drop), // another sandbox, of any agent
		rule(jump(egress)),
		rule(accept),
	)
	in := r.regular("in",
		rule(notIPv4(), drop),
		rule(answered(), accept),
		rule(drop),
	)
	r.base(nftables.Chain{
		Name: "forward", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	},
		rule(fromDevices(r.names.prefix), jump(out)),
		rule(toDevices(r.names.prefix), jump(in)),
	)
}

// describeHost decides what the host itself takes from a sandbox: questions to
// the resolver, and answers to connections the host opened.
func (r *ruleset) describeHost() {
	drop, accept := verdict(expr.VerdictDrop), verdict(expr.VerdictAccept)
	host := r.regular("host",
		rule(notIPv4(), drop),
		rule(answered(), accept),
		rule(addressIsNot(offsetDestination, gateway), drop),
		rule(fromDeviceIn(r.mute), drop),
		rule(protocol(unix.IPPROTO_UDP), toPort(r.port), accept),
		rule(protocol(unix.IPPROTO_TCP), toPort(r.port), accept),
		rule(drop),
	)
	r.base(nftables.Chain{
		Name: "input", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	}, rule(fromDevices(r.names.prefix), jump(host)))

	// A socket of the host dialled the inner address through one device; its
	// packets were given the outer address on the way out, so the answers get
	// the inner one back before they reach the socket.
	own := fromDevices(r.names.prefix)
	r.base(nftables.Chain{
		Name: "delivery", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: priorityLast,
	},
		rule(own, ipv4(), answered(), r.quotes(), quotedIn(offsetDestination, outerPrefix),
			constant(InnerAddr()), writeQuoted(offsetDestination)),
		rule(own, ipv4(), answered(), addressIn(offsetSource, outerPrefix),
			constant(InnerAddr()), writeAddress(offsetSource)),
	)
	toSandbox := toDevices(r.names.prefix)
	r.base(nftables.Chain{
		Name: "output", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw,
	},
		rule(toSandbox, ipv4(), addressIs(offsetDestination, InnerAddr()),
			outerOf(expr.MetaKeyOIFNAME, r.outer), writeAddress(offsetDestination)),
		rule(toSandbox, ipv4(), addressIs(offsetDestination, InnerAddr()), drop), // a device without a lease
		// The kernel resets a connection whose device is gone by way of the route
		// that is left, the uplink's.
		rule(notToDevices(devicePrefix), ipv4(), addressIs(offsetSource, gateway), addressIs(offsetDestination, InnerAddr()), drop),
	)
}

// describeDeparture masquerades what leaves the machine, and gives what goes
// to a sandbox its inner address.
func (r *ruleset) describeDeparture() {
	r.base(nftables.Chain{
		Name: "masquerade", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	}, rule(notToDevices(devicePrefix), ipv4(), addressIn(offsetSource, outerPrefix), phrase{&expr.Masq{}}))

	own := toDevices(r.names.prefix)
	r.base(nftables.Chain{
		Name: "departure", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: priorityLast,
	},
		rule(own, ipv4(), r.quotes(), quotedIn(offsetSource, outerPrefix),
			constant(InnerAddr()), writeQuoted(offsetSource)),
		rule(own, ipv4(), addressIn(offsetDestination, outerPrefix),
			constant(InnerAddr()), writeAddress(offsetDestination)),
	)
}

// quotes matches ICMP messages that quote a packet.
func (r *ruleset) quotes() phrase {
	return append(protocol(unix.IPPROTO_ICMP),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Len: 1},
		&expr.Lookup{SourceRegister: 1, SetName: r.quoting.Name, SetID: r.quoting.ID})
}

// policyChain returns the chain that holds the policy of one device.
func (r *ruleset) policyChain(device string, p Policy) *chain {
	c := &chain{Chain: &nftables.Chain{Table: r.table, Name: "policy_" + device}}
	add := func(phrases ...phrase) { c.rules = append(c.rules, rule(phrases...)) }
	for _, prefix := range fixedDenied {
		add(addressIn(offsetDestination, prefix), refuse())
	}
	for _, prefix := range p.Allow {
		add(addressIn(offsetDestination, prefix), verdict(expr.VerdictReturn))
	}
	if p.DenyAll {
		add(refuse())
		return c
	}
	for _, prefix := range p.Deny {
		if prefix.Addr().Is4() {
			add(addressIn(offsetDestination, prefix), refuse())
		}
	}
	for _, prefix := range privateDenied {
		add(addressIn(offsetDestination, prefix), refuse())
	}
	return c
}

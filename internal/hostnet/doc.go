// Package hostnet gives every sandbox of a host a network of its own: one
// network namespace with the same inner address everywhere, the way out
// through NAT under an egress policy, a name resolver, and the way in for the
// host alone.
//
// Every sandbox sees itself as InnerAddr behind Gateway, so that a snapshot
// resumes unchanged. On the host each one has an outer address, unique on the
// machine and seen nowhere else; nftables rules rewrite one into the other at
// the host's end of the veth pair, so that connection tracking, routing and
// masquerading see ordinary, distinct addresses. docs/adr/0004-network.md
// tells why.
//
// A Network is everything one agent owns: one nftables table lehr_<instance>,
// veth devices lh<instance hash><lease hash>, two rules in Docker's chain
// DOCKER-USER where there is one, and nothing else. Several agents share a
// machine without knowing of each other. Nothing here calls ip, nft or
// iptables.
//
// # Lifetime
//
// The namespace of a lease is held by an open descriptor of this process, and
// by the sandbox once it was started in it. So an agent that dies takes its
// unused leases along without any clean-up, and a started sandbox keeps its
// namespace, device and rules; the next agent adopts it.
//
// # What stays
//
// net.ipv4.ip_forward is switched on and left on: what else came to rely on it
// meanwhile cannot be known.
package hostnet

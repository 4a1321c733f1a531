package hostnet

import (
	"net/netip"
	"slices"

	"github.com/lehr-dev/lehr/internal/errs"
)

// maxPolicyPrefixes bounds Allow and Deny together: every packet is compared
// with each of them.
const maxPolicyPrefixes = 256

// Policy says where a sandbox may connect to. The zero Policy is the default:
// everything but the host's own addresses, other sandboxes, and the private
// and special ranges.
//
// Allow comes before Deny and DenyAll; what Policy calls fixed is denied
// whatever they say: the host's own addresses, other sandboxes, and
// 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16 with the metadata addresses,
// 224.0.0.0/4 and 240.0.0.0/4. IPv6 does not exist for a sandbox.
type Policy struct {
	// Allow opens prefixes, private ones too.
	Allow []netip.Prefix
	// Deny closes prefixes.
	Deny []netip.Prefix
	// DenyAll closes everything but Allow. The resolver answers only where Allow
	// is not empty: with nothing to reach, a name is only a way to get data out.
	DenyAll bool
}

// fixedDenied are the ranges no policy opens.
var fixedDenied = prefixes("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")

// privateDenied are the ranges only Allow opens. 192.0.0.0/24 (IETF protocol
// assignments, RFC 6890) is where a cloud has its metadata service too. The
// documentation ranges (192.0.2.0/24 and so on) are not among them: closed
// networks use them for what their machines reach.
var privateDenied = prefixes("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16")

// Validate returns Invalid, naming the field, where a prefix is not one of
// IPv4, is not masked, or asks for what no policy opens. An IPv6 prefix in Deny
// is accepted: it is denied anyway.
func (p Policy) Validate() error {
	if len(p.Allow)+len(p.Deny) > maxPolicyPrefixes {
		return errs.New(errs.Invalid, "%d prefixes are more than the %d a policy may have",
			len(p.Allow)+len(p.Deny), maxPolicyPrefixes).WithCode("network_policy_invalid").WithField("allow")
	}
	for _, prefix := range p.Allow {
		if err := validateAllow(prefix); err != nil {
			return err
		}
	}
	for _, prefix := range p.Deny {
		if err := validatePrefix(prefix, "deny"); err != nil {
			return err
		}
	}
	return nil
}

// validateAllow returns Invalid for a prefix that cannot be opened.
func validateAllow(prefix netip.Prefix) error {
	if err := validatePrefix(prefix, "allow"); err != nil {
		return err
	}
	if prefix.Addr().Is6() {
		return policyError("allow", "%s: sandboxes have no IPv6", prefix)
	}
	for _, fixed := range fixedDenied {
		// A wider prefix, as 0.0.0.0/0, opens what it may; one inside opens nothing.
		if fixed.Bits() <= prefix.Bits() && fixed.Contains(prefix.Addr()) {
			return policyError("allow", "%s lies in %s, which no policy opens", prefix, fixed)
		}
	}
	return nil
}

// validatePrefix returns Invalid for what is not the name of one network.
func validatePrefix(prefix netip.Prefix, field string) error {
	switch {
	case !prefix.IsValid():
		return policyError(field, "a prefix is empty or has a length its address cannot have")
	case prefix.Addr().Is4In6():
		return policyError(field, "%s: write the IPv4 address itself", prefix)
	case prefix != prefix.Masked():
		return policyError(field, "%s has host bits: did you mean %s?", prefix, prefix.Masked())
	}
	return nil
}

// policyError returns the error of a wrong policy.
func policyError(field, format string, args ...any) error {
	return errs.New(errs.Invalid, format, args...).WithCode("network_policy_invalid").WithField(field)
}

// isDefault reports whether p is the default policy.
func (p Policy) isDefault() bool { return len(p.Allow) == 0 && len(p.Deny) == 0 && !p.DenyAll }

// resolves reports whether the resolver answers under p.
func (p Policy) resolves() bool { return !p.DenyAll || len(p.Allow) > 0 }

// clone returns a copy that shares nothing with p.
func (p Policy) clone() Policy {
	return Policy{Allow: slices.Clone(p.Allow), Deny: slices.Clone(p.Deny), DenyAll: p.DenyAll}
}

// prefixes parses constant prefixes.
func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}

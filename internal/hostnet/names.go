package hostnet

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"regexp"

	"github.com/lehr-dev/lehr/internal/errs"
)

// devicePrefix begins the names of the host devices of every agent on the
// machine; a rule that keeps sandboxes apart matches it.
const devicePrefix = "lh"

// The lengths of the two hashes in a device name: with the prefix they make 15
// characters, the most a device name may have.
const (
	instanceHashLen = 5
	leaseHashLen    = 8
)

var (
	instancePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	leasePattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	hashAlphabet    = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
)

// names derives every kernel-visible name of one instance.
type names struct {
	table  string // nftables table
	prefix string // of the host devices
	group  uint32 // link group that devices enter right before they are removed together
	port   uint16 // where the resolver listens when it can, so that a restart changes nothing
}

// newNames returns the names of instance, or Invalid.
func newNames(instance string) (names, error) {
	if !instancePattern.MatchString(instance) {
		return names{}, errs.New(errs.Invalid, "network instance %q is not a name", instance).
			WithCode("instance_invalid").WithField("instance").
			WithRemedy("use 1 to 64 of a-z, 0-9, _ and -, beginning with a letter or digit")
	}
	sum := sha256.Sum256([]byte("lehr network " + instance))
	number := binary.BigEndian.Uint32(sum[16:])
	return names{
		table:  "lehr_" + instance,
		prefix: devicePrefix + hashAlphabet.EncodeToString(sum[:])[:instanceHashLen],
		group:  number | 1<<30,
		port:   uint16(20000 + number%10000),
	}, nil
}

// device returns the host device of a lease.
func (n names) device(lease string) string {
	sum := sha256.Sum256([]byte("lehr lease " + lease))
	return n.prefix + hashAlphabet.EncodeToString(sum[:])[:leaseHashLen]
}

// owns reports whether a device belongs to the instance.
func (n names) owns(device string) bool {
	return len(device) == len(n.prefix)+leaseHashLen && device[:len(n.prefix)] == n.prefix
}

// validateLease returns Invalid where name cannot name a lease.
func validateLease(name string) error {
	if !leasePattern.MatchString(name) {
		return errs.New(errs.Invalid, "lease %q is not a name", name).WithCode("lease_invalid").WithField("name")
	}
	return nil
}

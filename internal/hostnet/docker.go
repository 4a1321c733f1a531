package hostnet

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Where Docker looks for exceptions.
const (
	dockerTable = "filter"
	dockerChain = "DOCKER-USER"
)

// isDockerUser reports whether c is Docker's chain for exceptions.
func isDockerUser(c *nftables.Chain) bool {
	return c.Name == dockerChain && c.Table.Name == dockerTable && c.Table.Family == nftables.TableFamilyIPv4
}

// dockerUser keeps two rules in Docker's chain DOCKER-USER: Docker sets the
// policy of forwarding to DROP, and that chain is its door for exceptions. The
// rules let pass what this package's own table lets pass; the policy itself is
// not touched. A dockerUser is used by one goroutine at a time.
//
// Docker on legacy iptables is out of reach of netlink; lehr doctor tells.
type dockerUser struct {
	names names
	conn  *nftables.Conn
	chain *nftables.Chain
}

// openDockerUser prepares without touching anything.
func openDockerUser(n names) (*dockerUser, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: dockerTable}
	return &dockerUser{names: n, conn: conn, chain: &nftables.Chain{Table: table, Name: dockerChain}}, nil
}

// ensure puts the rules in, where there is the chain and they are not there.
func (d *dockerUser) ensure() error {
	own, there, err := d.own()
	if err != nil || !there || len(own) == 2 {
		return err
	}
	for _, rule := range own {
		if err := d.conn.DelRule(rule); err != nil {
			return err
		}
	}
	for _, match := range []phrase{fromDevices(d.names.prefix), toDevices(d.names.prefix)} {
		d.conn.InsertRule(&nftables.Rule{
			Table: d.chain.Table, Chain: d.chain,
			// As iptables writes them, so that it can list them.
			Exprs:    rule(match, phrase{&expr.Counter{}}, verdict(expr.VerdictAccept)),
			UserData: d.comment(),
		})
	}
	return d.flush()
}

// remove takes the rules out.
func (d *dockerUser) remove() error {
	own, _, err := d.own()
	if err != nil || len(own) == 0 {
		return err
	}
	for _, rule := range own {
		if err := d.conn.DelRule(rule); err != nil {
			return err
		}
	}
	return d.flush()
}

// flush sends what is queued. A chain that went meanwhile took the rules along.
func (d *dockerUser) flush() error {
	if err := d.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("write chain %s: %w", d.chain.Name, err)
	}
	return nil
}

// own returns the rules that are this instance's, and whether there is the
// chain.
func (d *dockerUser) own() (own []*nftables.Rule, there bool, err error) {
	chains, err := d.conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, false, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		there = there || isDockerUser(c)
	}
	if !there {
		return nil, false, nil
	}
	rules, err := d.conn.GetRules(d.chain.Table, d.chain)
	if err != nil {
		return nil, true, fmt.Errorf("list chain %s: %w", d.chain.Name, err)
	}
	for _, r := range rules {
		if text, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok && text == d.names.table {
			own = append(own, r)
		}
	}
	return own, true, nil
}

// comment marks a rule as this instance's.
func (d *dockerUser) comment() []byte {
	return userdata.AppendString(nil, userdata.TypeComment, d.names.table)
}

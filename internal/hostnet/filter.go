package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// entry is what the table holds about one device.
type entry struct {
	outer  netip.Addr
	policy bool // it has a chain of its own and an element that leads there
	mute   bool
	wanted *Policy // what the chain says; nil where a former agent wrote it
}

// errNotAdmitted is the error of a policy for a device without a lease.
var errNotAdmitted = errors.New("the device has no lease")

// filter is the hold of one Network on its nftables table. It alone writes the
// table; mu makes each change one transaction.
type filter struct {
	rules *ruleset

	mu      sync.Mutex
	conn    *nftables.Conn
	entries map[string]entry // by device; what the kernel holds
}

// openFilter makes the table, or takes over the one a former agent of the same
// instance left: its maps stay, its chains are replaced, in one transaction
// that no packet sees the middle of.
func openFilter(rules *ruleset, opts ...nftables.ConnOption) (*filter, error) {
	conn, err := nftables.New(append(opts, nftables.WithSockOptions(widenBuffer))...)
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	f := &filter{rules: rules, conn: conn, entries: map[string]entry{}}
	conn.AddTable(rules.table)
	if err := f.describe(); err != nil {
		return nil, err
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("write nftables table %s: %w", rules.table.Name, err)
	}
	if err := f.load(); err != nil {
		return nil, fmt.Errorf("read nftables table %s: %w", rules.table.Name, err)
	}
	return f, nil
}

// widenBuffer makes room for the answers to a transaction of many rules.
func widenBuffer(conn *netlink.Conn) error { return conn.SetReadBuffer(1 << 20) }

// describe queues sets and chains. Every chain exists before the first rule
// that jumps to it.
func (f *filter) describe() error {
	for _, set := range f.rules.sets() {
		if err := f.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("describe set %s: %w", set.Name, err)
		}
	}
	types := make([]nftables.SetElement, len(quotingTypes))
	for i, number := range quotingTypes {
		types[i].Key = []byte{number}
	}
	if err := f.conn.SetAddElements(f.rules.quoting, types); err != nil {
		return fmt.Errorf("describe set %s: %w", f.rules.quoting.Name, err)
	}
	for _, c := range f.rules.chains {
		f.conn.AddChain(c.Chain)
		f.conn.FlushChain(c.Chain)
	}
	for _, c := range f.rules.chains {
		f.addRules(c)
	}
	return nil
}

// addRules queues the rules of one chain.
func (f *filter) addRules(c *chain) {
	for _, exprs := range c.rules {
		f.conn.AddRule(&nftables.Rule{Table: f.rules.table, Chain: c.Chain, Exprs: exprs})
	}
}

// load reads what the maps hold.
func (f *filter) load() error {
	outer, err := f.conn.GetSetElements(f.rules.outer)
	if err != nil {
		return err
	}
	for _, element := range outer {
		if addr, ok := netip.AddrFromSlice(element.Val); ok {
			f.entries[deviceOf(element)] = entry{outer: addr}
		}
	}
	policy, err := f.conn.GetSetElements(f.rules.policy)
	if err != nil {
		return err
	}
	for _, element := range policy {
		f.edit(deviceOf(element), func(e *entry) { e.policy = true })
	}
	mute, err := f.conn.GetSetElements(f.rules.mute)
	if err != nil {
		return err
	}
	for _, element := range mute {
		f.edit(deviceOf(element), func(e *entry) { e.mute = true })
	}
	return nil
}

// edit changes one entry.
func (f *filter) edit(device string, change func(*entry)) {
	e := f.entries[device]
	change(&e)
	f.entries[device] = e
}

// entry returns what the table holds about device.
func (f *filter) entry(device string) (entry, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.entries[device]
	return e, ok
}

// devices returns every device the table holds something about.
func (f *filter) devices() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]string, 0, len(f.entries))
	for device := range f.entries {
		out = append(out, device)
	}
	slices.Sort(out)
	return out
}

// admit gives a device its outer address: from here on its packets pass.
func (f *filter) admit(device string, outer netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.conn.SetAddElements(f.rules.outer, outerElement(device, outer)); err != nil {
		return err
	}
	if err := f.conn.Flush(); err != nil {
		return fmt.Errorf("admit %s: %w", device, err)
	}
	f.entries[device] = entry{outer: outer}
	return nil
}

// apply puts a policy in force for a device, for open connections too.
func (f *filter) apply(device string, p Policy) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	had, ok := f.entries[device]
	if !ok {
		return errNotAdmitted
	}
	err := errors.Join(f.queuePolicy(device, had, p), f.queueMute(device, had, !p.resolves()))
	if flushErr := f.conn.Flush(); err == nil {
		err = flushErr
	}
	if err != nil {
		return fmt.Errorf("set the policy of %s: %w", device, err)
	}
	kept := p.clone()
	f.edit(device, func(e *entry) { e.policy, e.mute, e.wanted = !p.isDefault(), !p.resolves(), &kept })
	return nil
}

// queuePolicy queues the change from what is held to p.
func (f *filter) queuePolicy(device string, had entry, p Policy) error {
	c := f.rules.policyChain(device, p)
	element := []nftables.SetElement{{Key: deviceKey(device), VerdictData: gotoChain(c.Chain)}}
	switch {
	case p.isDefault() && !had.policy:
		return nil
	case p.isDefault():
		err := f.conn.SetDeleteElements(f.rules.policy, element)
		f.conn.FlushChain(c.Chain)
		f.conn.DelChain(c.Chain)
		return err
	}
	f.conn.AddChain(c.Chain)
	f.conn.FlushChain(c.Chain)
	f.addRules(c)
	if had.policy {
		return nil
	}
	return f.conn.SetAddElements(f.rules.policy, element)
}

// queueMute queues the change of whether the resolver answers.
func (f *filter) queueMute(device string, had entry, mute bool) error {
	element := []nftables.SetElement{{Key: deviceKey(device)}}
	switch {
	case mute == had.mute:
		return nil
	case mute:
		return f.conn.SetAddElements(f.rules.mute, element)
	}
	return f.conn.SetDeleteElements(f.rules.mute, element)
}

// forget removes everything about devices, in one transaction. Devices the
// table does not know are skipped.
func (f *filter) forget(devices []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.forgetEntries(devices)
	if errors.Is(err, unix.ENOENT) {
		// Either the whole table was taken from us, or the kernel and we disagree.
		if restored, restoreErr := f.restoreTable(); restored && restoreErr == nil {
			err = f.forgetEntries(devices)
		}
	}
	if err != nil {
		return fmt.Errorf("forget %d devices: %w", len(devices), err)
	}
	for _, device := range devices {
		delete(f.entries, device)
	}
	return nil
}

// forgetEntries removes devices from the kernel's table.
func (f *filter) forgetEntries(devices []string) error {
	var err error
	for _, device := range devices {
		had, ok := f.entries[device]
		if !ok {
			continue
		}
		err = errors.Join(err, f.queuePolicy(device, had, Policy{}), f.queueMute(device, had, false))
		if had.outer.IsValid() {
			err = errors.Join(err, f.conn.SetDeleteElements(f.rules.outer, outerElement(device, had.outer)))
		}
	}
	if flushErr := f.conn.Flush(); err == nil {
		err = flushErr
	}
	return err
}

// restore makes the table again where somebody took it away, as "flush
// ruleset" does, and reports whether it had to.
func (f *filter) restore() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.restoreTable()
}

// restoreTable is restore with mu held. A policy that a former agent set is not
// known any more; everything is denied in its place.
func (f *filter) restoreTable() (bool, error) {
	tables, err := f.conn.ListTablesOfFamily(f.rules.table.Family)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, table := range tables {
		if table.Name == f.rules.table.Name {
			return false, nil
		}
	}
	f.conn.AddTable(f.rules.table)
	err = f.describe()
	for device, e := range f.entries {
		policy := Policy{DenyAll: e.policy || e.mute}
		if e.wanted != nil {
			policy = *e.wanted
		}
		err = errors.Join(err, f.queuePolicy(device, entry{}, policy), f.queueMute(device, entry{}, !policy.resolves()))
		if e.outer.IsValid() {
			err = errors.Join(err, f.conn.SetAddElements(f.rules.outer, outerElement(device, e.outer)))
		}
		f.edit(device, func(e *entry) { e.policy, e.mute, e.wanted = !policy.isDefault(), !policy.resolves(), &policy })
	}
	if flushErr := f.conn.Flush(); err == nil {
		err = flushErr
	}
	if err != nil {
		return false, fmt.Errorf("restore nftables table %s: %w", f.rules.table.Name, err)
	}
	return true, nil
}

// remove deletes the table.
func (f *filter) remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conn.DelTable(f.rules.table)
	if err := f.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", f.rules.table.Name, err)
	}
	return nil
}

// outerElement is a device's element of the map outer.
func outerElement(device string, outer netip.Addr) []nftables.SetElement {
	return []nftables.SetElement{{Key: deviceKey(device), Val: outer.AsSlice()}}
}

// deviceKey returns a device name as the maps hold it.
func deviceKey(device string) []byte {
	key := make([]byte, unix.IFNAMSIZ)
	copy(key, device)
	return key
}

// deviceOf is the opposite of deviceKey.
func deviceOf(element nftables.SetElement) string { return unix.ByteSliceToString(element.Key) }

// gotoChain is the verdict that leads to a chain.
func gotoChain(c *nftables.Chain) *expr.Verdict {
	return &expr.Verdict{Kind: expr.VerdictGoto, Chain: c.Name}
}

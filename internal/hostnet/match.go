package hostnet

import (
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// This file holds the vocabulary of rules: each function returns the
// expressions of one match or one statement, and rule strings them together.
// Register 1 is the working register; nothing survives a phrase.

// phrase is one match or statement of a rule.
type phrase []expr.Any

// rule joins phrases.
func rule(phrases ...phrase) []expr.Any {
	var out []expr.Any
	for _, p := range phrases {
		out = append(out, p...)
	}
	return out
}

// Offsets of addresses in an IPv4 header and, behind the eight bytes of ICMP,
// in the header that an ICMP error quotes.
const (
	offsetSource      = 12
	offsetDestination = 16
	offsetQuoted      = 8
)

// compare loads with load and compares.
func compare(load expr.Any, op expr.CmpOp, data []byte) phrase {
	return phrase{load, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

// fromDevices matches packets that came in by a device whose name begins with
// prefix.
func fromDevices(prefix string) phrase {
	return compare(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, expr.CmpOpEq, []byte(prefix))
}

// notFromDevices is the opposite of fromDevices.
func notFromDevices(prefix string) phrase {
	return compare(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, expr.CmpOpNeq, []byte(prefix))
}

// toDevices matches packets that leave by a device whose name begins with
// prefix.
func toDevices(prefix string) phrase {
	return compare(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, expr.CmpOpEq, []byte(prefix))
}

// notToDevices is the opposite of toDevices.
func notToDevices(prefix string) phrase {
	return compare(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, expr.CmpOpNeq, []byte(prefix))
}

// fromDeviceIn matches packets whose input device is in set.
func fromDeviceIn(set *nftables.Set) phrase {
	return phrase{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
	}
}

// ipv4 matches packets of IPv4. In an inet table it stands before anything
// that looks at addresses, unless the chain has let only IPv4 through.
func ipv4() phrase {
	return compare(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, expr.CmpOpEq, []byte{unix.NFPROTO_IPV4})
}

// notIPv4 is the opposite of ipv4.
func notIPv4() phrase {
	return compare(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, expr.CmpOpNeq, []byte{unix.NFPROTO_IPV4})
}

// loadAddress loads the address at offset of the network header.
func loadAddress(offset uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}
}

// addressIs matches one address at offset of the network header.
func addressIs(offset uint32, addr netip.Addr) phrase {
	return compare(loadAddress(offset), expr.CmpOpEq, addr.AsSlice())
}

// addressIsNot is the opposite of addressIs.
func addressIsNot(offset uint32, addr netip.Addr) phrase {
	return compare(loadAddress(offset), expr.CmpOpNeq, addr.AsSlice())
}

// addressIn matches a prefix at offset of the network header.
func addressIn(offset uint32, prefix netip.Prefix) phrase {
	return within(loadAddress(offset), prefix)
}

// within matches a prefix in what load loads.
func within(load expr.Any, prefix netip.Prefix) phrase {
	mask := net.CIDRMask(prefix.Bits(), 32)
	return phrase{
		load,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: prefix.Masked().Addr().AsSlice()},
	}
}

// notUnicast matches packets whose destination is local, broadcast, multicast
// or not routable, asked from the routing table.
func notUnicast() phrase {
	return compare(&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		expr.CmpOpNeq, binaryutil.NativeEndian.PutUint32(unix.RTN_UNICAST))
}

// protocol matches the transport protocol.
func protocol(number byte) phrase {
	return compare(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, expr.CmpOpEq, []byte{number})
}

// toPort matches the destination port of TCP or UDP.
func toPort(number uint16) phrase {
	return compare(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		expr.CmpOpEq, binaryutil.BigEndian.PutUint16(number))
}

// icmpType matches one type of ICMP message.
func icmpType(number byte) phrase {
	return append(protocol(unix.IPPROTO_ICMP), compare(
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Len: 1}, expr.CmpOpEq, []byte{number})...)
}

// answered matches packets in the reply direction of a connection that
// connection tracking knows.
func answered() phrase {
	state := expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	return phrase{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(state), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	}
}

// outerOf loads the outer address of the lease whose device key loads; a rule
// ends there where the device has none.
func outerOf(key expr.MetaKey, outer *nftables.Set) phrase {
	return phrase{
		&expr.Meta{Key: key, Register: 1},
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: outer.Name, SetID: outer.ID},
	}
}

// constant loads an address.
func constant(addr netip.Addr) phrase {
	return phrase{&expr.Immediate{Register: 1, Data: addr.AsSlice()}}
}

// writeAddress stores the loaded address at offset of the network header and
// mends the checksums of IP and of TCP or UDP.
func writeAddress(offset uint32) phrase {
	return phrase{&expr.Payload{
		OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4,
		CsumType: expr.CsumTypeInet, CsumOffset: 10, CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
	}}
}

// quotedIn matches ICMP errors that quote a packet whose address at offset is
// in prefix.
func quotedIn(offset uint32, prefix netip.Prefix) phrase {
	return within(&expr.Payload{
		DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offsetQuoted + offset, Len: 4,
	}, prefix)
}

// writeQuoted stores the loaded address at offset of the header that an ICMP
// error quotes, and mends that header's checksum. The message's own checksum
// stays right, for a valid IP header always adds up to the same.
func writeQuoted(offset uint32) phrase {
	return phrase{&expr.Payload{
		OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader,
		Offset: offsetQuoted + offset, Len: 4, CsumType: expr.CsumTypeInet, CsumOffset: offsetQuoted + 10,
	}}
}

// verdict ends a rule.
func verdict(kind expr.VerdictKind) phrase { return phrase{&expr.Verdict{Kind: kind}} }

// jump goes on in chain and comes back.
func jump(chain *nftables.Chain) phrase {
	return phrase{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain.Name}}
}

// dispatch goes where the map says for the input device, if it says anything.
func dispatch(verdicts *nftables.Set) phrase {
	return phrase{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: verdicts.Name, SetID: verdicts.ID},
	}
}

// refuse answers that it is prohibited, so that a program fails at once instead
// of waiting for its own time limit.
func refuse() phrase {
	return phrase{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

// redirectTo sends the packet to a local port.
func redirectTo(port uint16) phrase {
	return phrase{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1},
	}
}

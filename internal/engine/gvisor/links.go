package gvisor

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/config"
)

const (
	// packetBuffer is the socket buffer towards a sandbox's link; the default
	// of 208 KiB drops packets.
	packetBuffer = 4 << 20
	// gsoMaxSize is the largest packet handed to the host in one piece; the host
	// cuts it where the link cannot.
	gsoMaxSize = 65536
	allPackets = 0x0300 // htons(ETH_P_ALL)
)

// links is what a sentry is told about its network, and the packet sockets
// that it gets with it.
type links struct {
	args  boot.CreateLinksAndRoutesArgs
	files []*os.File
}

func (l *links) close() {
	for _, f := range l.files {
		_ = f.Close()
	}
}

// loopbackOnly is the network of a sandbox without a lease.
func loopbackOnly() *links {
	return &links{args: boot.CreateLinksAndRoutesArgs{LoopbackLinks: []boot.LoopbackLink{boot.DefaultLoopbackLink}}}
}

// readLinks reads the links of the namespace at path, takes their addresses
// away from the host's kernel and opens a packet socket on each. A namespace
// serves one sandbox, once.
func readLinks(path string, conf *config.Config) (*links, error) {
	l := loopbackOnly()
	err := onThread(func() (bool, error) {
		leave, err := enterNetwork(path)
		if err != nil {
			return true, err
		}
		err = l.read(conf)
		if left := leave(); left != nil {
			return false, errors.Join(err, left)
		}
		return true, err
	})
	if err != nil {
		l.close()
		return nil, fmt.Errorf("reading the network namespace: %w", err)
	}
	return l, nil
}

// read fills l from the calling thread's namespace.
func (l *links) read(conf *config.Config) error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	found, err := handle.LinkList()
	if err != nil {
		return err
	}
	for _, link := range found {
		attrs := link.Attrs()
		if attrs.Flags&net.FlagLoopback != 0 || attrs.Flags&net.FlagUp == 0 {
			continue
		}
		if err := l.add(handle, link, conf); err != nil {
			return fmt.Errorf("link %s: %w", attrs.Name, err)
		}
	}
	return nil
}

// add describes one link and opens its packet socket.
func (l *links) add(handle *netlink.Handle, link netlink.Link, conf *config.Config) error {
	attrs := link.Attrs()
	addrs, err := handle.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) == 0 {
		return err
	}
	described := boot.FDBasedLink{
		Name:                 attrs.Name,
		InterfaceIndex:       attrs.Index,
		MTU:                  attrs.MTU,
		LinkAddress:          attrs.HardwareAddr,
		GSOMaxSize:           gsoMaxSize,
		GVisorGRO:            conf.GVisorGRO,
		TXChecksumOffload:    conf.TXChecksumOffload,
		RXChecksumOffload:    conf.RXChecksumOffload,
		QDisc:                conf.QDisc,
		NumChannels:          1,
		ProcessorsPerChannel: conf.NetworkProcessorsPerChannel,
	}
	// Routes go with the addresses, so they are read first.
	if err := l.addRoutes(handle, link, &described); err != nil {
		return err
	}
	neighbours, err := handle.NeighList(attrs.Index, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, n := range neighbours {
		if n.State == netlink.NUD_PERMANENT {
			described.Neighbors = append(described.Neighbors, boot.Neighbor{IP: n.IP, HardwareAddr: n.HardwareAddr})
		}
	}
	for _, addr := range addrs {
		prefix, _ := addr.Mask.Size()
		described.Addresses = append(described.Addresses, boot.IPWithPrefix{Address: addr.IP, PrefixLen: prefix})
		if err := handle.AddrDel(link, &addr); err != nil {
			return err
		}
	}
	socket, err := packetSocket(attrs.Index)
	if err != nil {
		return err
	}
	l.args.FDBasedLinks = append(l.args.FDBasedLinks, described)
	l.files = append(l.files, socket)
	return nil
}

// addRoutes copies the link's routes; the default one is kept apart.
func (l *links) addRoutes(handle *netlink.Handle, link netlink.Link, described *boot.FDBasedLink) error {
	routes, err := handle.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Dst == nil || (r.Dst.IP.IsUnspecified() && isZeroMask(r.Dst.Mask)) {
			l.args.Defaultv4Gateway = boot.DefaultRoute{
				Name: described.Name,
				Route: boot.Route{
					Destination: net.IPNet{IP: net.IPv4zero, Mask: net.IPMask(net.IPv4zero)},
					Gateway:     r.Gw,
					MTU:         uint32(r.MTU),
				},
			}
			continue
		}
		dst := *r.Dst
		dst.IP = dst.IP.Mask(dst.Mask)
		described.Routes = append(described.Routes, boot.Route{Destination: dst, Gateway: r.Gw, MTU: uint32(r.MTU)})
	}
	return nil
}

func isZeroMask(mask net.IPMask) bool {
	ones, _ := mask.Size()
	return ones == 0
}

// packetSocket opens a raw socket on the link with that index in the calling
// thread's namespace.
func packetSocket(index int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: receives nothing before bind
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "packet-socket")
	err = errors.Join(
		os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allPackets, Ifindex: index})),
		os.NewSyscallError("vnet_hdr", unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)),
		os.NewSyscallError("rcvbuf", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetBuffer)),
		os.NewSyscallError("sndbuf", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, packetBuffer)),
	)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

package virt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/beevik/etree"

	"meros/internal/hint"
	"meros/internal/proc"
)

// bridgeAddress is the address of an owner's bridge. libvirt gives it to the bridge as
// it makes it, so that one which a libvirt that died has left without noting it still
// says whose it is. A recipe's own <mac> goes before it.
func (o Owner) bridgeAddress(bridge string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(o.Root + "\x00" + o.Family + "\x00" + bridge))
	sum[0] = 0x02 // unicast, administered locally
	return sum[:6]
}

// markBridge writes the bridge's address into a <network> document that names the
// bridge and has no address of its own.
func (o Owner) markBridge(root *etree.Element) {
	bridge := root.SelectElement("bridge")
	if bridge == nil || bridge.SelectAttrValue("name", "") == "" || root.SelectElement("mac") != nil {
		return
	}
	insertAfter(root, "mac", "bridge").CreateAttr("address", o.bridgeAddress(bridge.SelectAttrValue("name", "")).String())
}

// LeftBridges returns the bridges of this host that carry the owner's address, though
// none of the networks that libvirt runs has them.
func LeftBridges(o Owner, running []Network) ([]string, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the host's links: %w", err)
	}
	var left []string
	for _, l := range links {
		used := slices.ContainsFunc(running, func(n Network) bool { return n.Active && n.takes().Bridge == l.Name })
		if !used && bytes.Equal(l.HardwareAddr, o.bridgeAddress(l.Name)) && isBridge(l.Name) {
			left = append(left, l.Name)
		}
	}
	return left, nil
}

func isBridge(link string) bool {
	_, err := os.Stat(filepath.Join("/sys/class/net", link, "bridge"))
	return err == nil
}

// RemoveBridge takes a bridge away, as libvirt does with its own.
func RemoveBridge(ctx context.Context, r proc.Runner, name string) error {
	program, err := proc.Find("ip")
	if err == nil {
		err = r.Run(ctx, proc.Cmd{Argv: []string{program, "link", "delete", "dev", name, "type", "bridge"}})
	}
	if err != nil {
		return hint.Add(fmt.Errorf("remove the bridge %s, which a libvirt that died has left: %w", name, err), "sudo ip link delete %s", name)
	}
	return nil
}

package virt

import (
	"errors"
	"strings"
	"testing"
)

func TestDomainClashes(t *testing.T) {
	domain := func(devices string) string {
		return `<domain type="kvm"><devices>` + devices + `</devices></domain>`
	}
	running := []Domain{
		{Name: "web", XML: domain(`<interface type="network"><mac address="52:54:00:AA:00:01"/></interface><graphics type="vnc" port="5900"/>`)},
		{Name: "mos_x-y", Owner: Owner{Family: "mos_x", Target: "y", Root: "/srv/x"}, XML: domain(`<serial type="tcp"><source mode="bind" host="::" service="4555"/></serial>`)},
	}
	start := []Document{
		{Name: "mos_a-b", XML: domain(`<interface type="network"><mac address="52:54:00:aa:00:01"/></interface><graphics type="vnc" port="5900" autoport="yes"/>`)},
		{Name: "mos_a-c", XML: domain(`<interface type="network"><mac address="52:54:00:aa:00:02"/></interface><graphics type="spice" port="5901" tlsPort="5900"/>`)},
		{Name: "mos_a-d", XML: domain(`<interface type="network"><mac address="52:54:00:aa:00:02"/></interface><console type="tcp"><source mode="bind" service="4555"/></console><serial type="tcp"><source mode="connect" service="5901"/></serial>`)},
	}
	want := strings.Join([]string{
		"mos_a-b: its MAC address 52:54:00:aa:00:01 is taken by the domain web of another program",
		"mos_a-c: its port 5900 of the host is taken by the domain web of another program",
		"mos_a-d: its MAC address 52:54:00:aa:00:02 is taken by the domain mos_a-c of this family",
		"mos_a-d: its port 4555 of the host is taken by the domain mos_x-y of the family mos_x of /srv/x",
	}, "\n")
	if got := errors.Join(DomainClashes(start, running, nil)...); got == nil || got.Error() != want {
		t.Errorf("DomainClashes =\n%v\nwant\n%s", got, want)
	}
	if got := DomainClashes(start[:2], nil, nil); got != nil {
		t.Errorf("DomainClashes of what is free = %v", got)
	}
	listening := Listeners{}
	listening.add("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:170C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100\n" +
		"   1: 0100007F:170D 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100\nx\n")
	wanted := "mos_a-c: its port 5900 of the host is taken by a program of this host"
	if got := errors.Join(DomainClashes(start[:2], nil, listening)...); got == nil || got.Error() != wanted {
		t.Errorf("DomainClashes beside a listener = %v, want %s", got, wanted)
	}
}

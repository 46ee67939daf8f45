package virt

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beevik/etree"
)

// DomainClashes returns what is wrong with starting domains beside those that
// run: a hardware address or a port of the host that is taken, each with its
// owner.
func DomainClashes(start []Document, running []Domain, listening Listeners) []error {
	taken := map[string]string{}
	for _, d := range running {
		for _, c := range claimsOf(d.XML, true) {
			taken[c] = fmt.Sprintf("the domain %s of %s", d.Name, d.Owner.Describe())
		}
	}
	var faults []error
	for _, d := range start {
		claims := claimsOf(d.XML, false)
		for _, c := range claims {
			by := taken[c]
			if port, ok := portOf(c); ok && by == "" {
				by = listening.owner(port)
			}
			if by != "" {
				faults = append(faults, fmt.Errorf("%s: its %s is taken by %s", d.Name, c, by))
			}
		}
		for _, c := range claims {
			taken[c] = "the domain " + d.Name + " of this family"
		}
	}
	return faults
}

// portClaim words the claim of a port.
const portClaim = "port %d of the host"

func portOf(claim string) (port int, ok bool) {
	_, err := fmt.Sscanf(claim, portClaim, &port)
	return port, err == nil
}

// claimsOf names what a domain has to itself on this host. Ports are claimed
// whatever the address: a listener on all of them has each. Those of autoport are
// libvirt's to choose, so only a domain that runs has one.
func claimsOf(xml string, runs bool) []string {
	doc := etree.NewDocument()
	if doc.ReadFromString(xml) != nil {
		return nil
	}
	var claims []string
	add := func(claim string) {
		if !slices.Contains(claims, claim) {
			claims = append(claims, claim)
		}
	}
	addPort := func(value string) {
		if port, err := strconv.ParseUint(value, 10, 16); err == nil && port > 0 {
			add(fmt.Sprintf(portClaim, port))
		}
	}
	for _, mac := range doc.FindElements("/domain/devices/interface/mac") {
		if address := mac.SelectAttrValue("address", ""); address != "" {
			add("MAC address " + strings.ToLower(address))
		}
	}
	for _, g := range doc.FindElements("/domain/devices/graphics") {
		if !runs && g.SelectAttrValue("autoport", "") == "yes" {
			continue
		}
		for _, port := range []string{"port", "tlsPort", "websocket"} {
			addPort(g.SelectAttrValue(port, ""))
		}
	}
	for _, tag := range []string{"serial", "console", "parallel", "channel"} {
		for _, source := range doc.FindElements("/domain/devices/" + tag + "/source[@mode='bind']") {
			addPort(source.SelectAttrValue("service", ""))
		}
	}
	return claims
}

package virt

import (
	"fmt"
	"strings"

	"github.com/beevik/etree"
)

// DomainClashes returns what is wrong with starting domains beside those that
// run: a hardware address or a port of the host that is taken, each with its
// owner.
func DomainClashes(start []Document, running []Domain) []error {
	taken := map[string]string{}
	for _, d := range running {
		for _, c := range claimsOf(d.XML) {
			taken[c] = fmt.Sprintf("the domain %s of %s", d.Name, d.Owner.Describe())
		}
	}
	var faults []error
	for _, d := range start {
		for _, c := range claimsOf(d.XML) {
			if by := taken[c]; by != "" {
				faults = append(faults, fmt.Errorf("%s: its %s is taken by %s", d.Name, c, by))
			}
		}
		for _, c := range claimsOf(d.XML) {
			taken[c] = "the domain " + d.Name + " of this family"
		}
	}
	return faults
}

// claimsOf names what a domain has to itself on this host. Ports are claimed
// whatever the address: a listener on all of them has each.
func claimsOf(xml string) []string {
	doc := etree.NewDocument()
	if doc.ReadFromString(xml) != nil {
		return nil
	}
	var claims []string
	add := func(format, value string) {
		claim := fmt.Sprintf(format, strings.ToLower(value))
		for _, c := range claims {
			if c == claim {
				return
			}
		}
		if value != "" && value != "-1" && value != "0" {
			claims = append(claims, claim)
		}
	}
	for _, mac := range doc.FindElements("/domain/devices/interface/mac") {
		add("MAC address %s", mac.SelectAttrValue("address", ""))
	}
	for _, g := range doc.FindElements("/domain/devices/graphics") {
		for _, port := range []string{"port", "tlsPort", "websocket"} {
			add("port %s of the host", g.SelectAttrValue(port, ""))
		}
	}
	for _, tag := range []string{"serial", "console", "parallel", "channel"} {
		for _, source := range doc.FindElements("/domain/devices/" + tag + "/source[@mode='bind']") {
			add("port %s of the host", source.SelectAttrValue("service", ""))
		}
	}
	return claims
}

package family

import (
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What a recipe takes that another may have too, as it is written.
var (
	bridgeAttr = regexp.MustCompile(`<bridge\b[^>]*\bname\s*=\s*["']([^"'$]+)["']`)
	ipElement  = regexp.MustCompile(`<ip\b[^>]*>`)
	addrAttr   = regexp.MustCompile(`\baddress\s*=\s*["']([0-9.]+)["']`)
	maskAttr   = regexp.MustCompile(`\bnetmask\s*=\s*["']([0-9.]+)["']`)
	prefixAttr = regexp.MustCompile(`\bprefix\s*=\s*["']([0-9]+)["']`)
	addrWord   = regexp.MustCompile(`\b[0-9]{1,3}(\.[0-9]{1,3}){3}\b`)
	macWord    = regexp.MustCompile(`(?i)\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b`)
	uuidWord   = regexp.MustCompile(`(?i)<uuid>\s*([0-9a-f-]{36})\s*</uuid>`)
)

// rewriter makes a recipe another family's.
type rewriter struct {
	from, name string
	word       *regexp.Regexp // the older name where it is not part of a longer one
	words      map[string]string
	subnets    map[netip.Prefix]netip.Prefix
}

func newRewriter(source, others recipeFiles, from, name string, taken Taken) *rewriter {
	r := &rewriter{from: from, name: name, words: map[string]string{}, subnets: map[netip.Prefix]netip.Prefix{}}
	r.word = regexp.MustCompile(`(^|[^A-Za-z0-9_]|meros_)` + regexp.QuoteMeta(from) + `($|[^A-Za-z0-9])`)
	usedBridges := append(bridgesOf(others), taken.Bridges...)
	for _, b := range bridgesOf(source) {
		now := freeBridge(r.rename(b), name, usedBridges)
		usedBridges = append(usedBridges, now)
		r.words[b] = now
	}
	used := append(subnetsOf(others), taken.Subnets...)
	for _, s := range subnetsOf(source) {
		now := freeSubnet(s, name, from == name, used)
		used = append(used, now)
		r.subnets[s] = now
	}
	if from != name {
		r.newIdentities(source)
	}
	return r
}

// newIdentities gives MAC addresses and UUIDs new values.
func (r *rewriter) newIdentities(source recipeFiles) {
	for file, content := range source {
		if !strings.HasPrefix(file, "libvirt/") {
			continue
		}
		for _, mac := range macWord.FindAllString(string(content), -1) {
			sum := sha256.Sum256([]byte(r.name + " " + strings.ToLower(mac)))
			r.words[mac] = fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
		}
		for _, m := range uuidWord.FindAllStringSubmatch(string(content), -1) {
			b := sha256.Sum256([]byte(r.name + " " + strings.ToLower(m[1])))
			b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80 // RFC 9562, version 8
			r.words[m[1]] = fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
		}
	}
}

// rewrite changes the files, their names too.
func (r *rewriter) rewrite(files recipeFiles) error {
	for _, file := range slices.Collect(keys(files)) {
		content := files[file]
		delete(files, file)
		if isText(content) {
			content = []byte(r.text(file, string(content)))
		}
		now := r.fileName(file)
		if files[now] != nil {
			return fmt.Errorf("two files of the new family would be %s", now)
		}
		files[now] = content
	}
	return nil
}

func keys(files recipeFiles) func(func(string) bool) {
	return func(yield func(string) bool) {
		for file := range files {
			if !yield(file) {
				return
			}
		}
	}
}

// text replaces bridges and identities first: they may hold the name. In XML a
// bridge is one only where it stands as such: networks may be called the same.
func (r *rewriter) text(file, s string) string {
	olds := make([]string, 0, len(r.words))
	for old := range r.words {
		olds = append(olds, old)
	}
	slices.Sort(olds)
	placeholder := func(i int) string { return "\x00" + string(rune('A'+i)) + "\x00" }
	for i, old := range olds {
		word := `(^|[^A-Za-z0-9_.-])` + regexp.QuoteMeta(old) + `($|[^A-Za-z0-9_-])`
		if strings.HasSuffix(file, ".xml") && !strings.Contains(old, ":") && len(old) <= maxInterface {
			word = `(\bbridge\b[^<>]*=\s*["'])` + regexp.QuoteMeta(old) + `(["'])`
		}
		again := regexp.MustCompile(word)
		for range 2 { // two may share the character between them
			s = again.ReplaceAllString(s, "${1}"+placeholder(i)+"${2}")
		}
	}
	s = addrWord.ReplaceAllStringFunc(r.rename(s), r.address)
	for i, old := range olds {
		s = strings.ReplaceAll(s, placeholder(i), r.words[old])
	}
	return s
}

// rename puts the new name for the older one. Twice, since two occurrences may
// share the character between them.
func (r *rewriter) rename(s string) string {
	for range 2 {
		s = r.word.ReplaceAllString(s, "${1}"+r.name+"${2}")
		if r.from == r.name {
			break
		}
	}
	return s
}

// fileName changes dom_<x> and net_<x> of the older tool too, which knows mos_<x>
// by its x.
func (r *rewriter) fileName(file string) string {
	folder, base, ok := strings.Cut(file, "/")
	if !ok || folder != "libvirt" {
		return file
	}
	short := func(name string) string { return strings.TrimPrefix(name, familyPrefix) }
	for _, prefix := range []string{domainPrefix, networkPrefix} {
		rest, ok := strings.CutPrefix(base, prefix+short(r.from))
		if ok && rest != "" && strings.ContainsAny(rest[:1], "-_.") {
			return folder + "/" + prefix + short(r.name) + rest
		}
	}
	return file
}

// address moves an address into its subnet's new place.
func (r *rewriter) address(s string) string {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return s
	}
	for old, now := range r.subnets {
		if !old.Contains(a) {
			continue
		}
		b, base, mask := a.As4(), now.Addr().As4(), now.Bits()
		for i := range b {
			keep := byte(0xff >> max(0, min(8, mask-8*i)))
			b[i] = base[i]&^keep | b[i]&keep
		}
		return netip.AddrFrom4(b).String()
	}
	return s
}

func bridgesOf(files recipeFiles) []string {
	var names []string
	for file, content := range files {
		for _, m := range bridgeAttr.FindAllStringSubmatch(string(content), -1) {
			if strings.HasPrefix(file, "libvirt/") && !slices.Contains(names, m[1]) {
				names = append(names, m[1])
			}
		}
	}
	slices.Sort(names)
	return names
}

// freeBridge returns a bridge's name that fits and that nobody has: name itself if
// so, else as much of the family's as leaves room for a number.
func freeBridge(name, family string, used []string) string {
	for n := 0; len(name) > maxInterface || slices.Contains(used, name); n++ {
		number := strconv.Itoa(n)
		name = family[:min(len(family), maxInterface-len(number)-1)] + "_" + number
	}
	return name
}

// subnetsOf returns the private subnets that build files and libvirt documents
// speak of: those of <ip>, and the 256 addresses around any other one.
func subnetsOf(files recipeFiles) []netip.Prefix {
	var found []netip.Prefix
	add := func(p netip.Prefix) {
		if p.IsValid() && p.Addr().IsPrivate() && !slices.ContainsFunc(found, p.Overlaps) {
			found = append(found, p)
		}
	}
	for file, content := range files {
		if strings.HasPrefix(file, "libvirt/") {
			for _, e := range ipElement.FindAllString(string(content), -1) {
				add(ipSubnet(e))
			}
		}
	}
	for file, content := range files {
		if !strings.HasPrefix(file, "libvirt/") && !strings.HasPrefix(file, "build/") {
			continue
		}
		for _, word := range addrWord.FindAllString(string(content), -1) {
			if a, err := netip.ParseAddr(word); err == nil {
				add(netip.PrefixFrom(a, 24).Masked())
			}
		}
	}
	slices.SortFunc(found, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return found
}

func ipSubnet(element string) netip.Prefix {
	value := func(attr *regexp.Regexp) string {
		if m := attr.FindStringSubmatch(element); m != nil {
			return m[1]
		}
		return ""
	}
	addr, err := netip.ParseAddr(value(addrAttr))
	if err != nil {
		return netip.Prefix{}
	}
	bits, err := strconv.Atoi(value(prefixAttr))
	if mask, maskErr := netip.ParseAddr(value(maskAttr)); err != nil && maskErr == nil && mask.Is4() {
		bits = 0
		for _, b := range mask.As4() {
			for ; b&0x80 != 0; b <<= 1 {
				bits++
			}
		}
	}
	// A smaller one is moved with its neighbours: other addresses are read as /24.
	return netip.PrefixFrom(addr, max(8, min(24, bits))).Masked()
}

// freeSubnet returns a subnet of the same size that nobody has: s itself if it
// may stay, else one of 10.64.0.0/10, which families ship nothing in, at a place
// that follows from the name.
func freeSubnet(s netip.Prefix, family string, mayStay bool, used []netip.Prefix) netip.Prefix {
	if mayStay && !slices.ContainsFunc(used, s.Overlaps) {
		return s
	}
	h := fnv.New32a()
	fmt.Fprint(h, family)
	start := h.Sum32()
	for n := range uint32(1 << 14) {
		at := (start + n) % (1 << 14) // the 14 bits of a /24 in 10.64.0.0/10
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64 | byte(at>>8), byte(at), 0}), max(10, s.Bits())).Masked()
		if !slices.ContainsFunc(used, p.Overlaps) {
			return p
		}
	}
	return s
}

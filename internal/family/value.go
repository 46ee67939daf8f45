package family

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Every parser here returns an error that says what a value must be; the value
// itself is added by whoever knows the place it came from.

var (
	// adduser(8), NAME_REGEX of Debian's adduser.conf, and useradd(8)'s 32 bytes.
	userForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	// RFC 1123, 2.1, and RFC 952: one label, in the lower case that DNS compares in.
	hostForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// Debian Policy 5.6.1.
	debForm = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`)
	// Alpine's APKBUILD(5) pkgname; capitals exist (R, R-mathlib).
	apkForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_+.-]{0,127}$`)
	// Suites, branches and architectures end up in URLs and file names.
	wordForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	// A place below the guest user's home; no part is hidden or steps up.
	sharedForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,63}){0,7}$`)
	// sources.list(5) splits at blanks and takes #, quotes and brackets as its own;
	// an address of IPv6 needs the brackets, and stands where they mean nothing.
	mirrorForm = regexp.MustCompile(`^[A-Za-z0-9._~:/+,=%[\]-]+$`)
	numberForm = regexp.MustCompile(`^-?[0-9]{1,18}$`)
)

// maxMirror is the most bytes of a mirror's address. It is not in the form, which
// would be compiled to as many steps at every start of meros.
const maxMirror = 1000

func match(form *regexp.Regexp, must string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !form.MatchString(s) {
			return "", errors.New(must)
		}
		return s, nil
	}
}

// oneOf takes a word that is a key of known. words says which, in a good order.
func oneOf[T any](known map[string]T, words string) func(string) (T, error) {
	return func(s string) (T, error) {
		v, ok := known[s]
		if !ok {
			return v, errors.New("must be " + words)
		}
		return v, nil
	}
}

// number takes whole numbers from 1 to most.
func number(most int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		switch {
		case err != nil || !numberForm.MatchString(s):
			return 0, errors.New("must be a whole number")
		case n <= 0:
			return 0, errors.New("must be > 0")
		case n > most:
			return 0, fmt.Errorf("must be at most %d", most)
		}
		return n, nil
	}
}

// address takes what a guest or its gateway can have and be called by.
func address(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, errors.New("must be an IP address, such as 10.0.4.4")
	case a.Zone() != "" || a.Is4In6() || a.Is6() && a.IsLinkLocalUnicast():
		return netip.Addr{}, errors.New("must be an address that needs no zone and no translation")
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, errors.New("must be the address of one machine")
	}
	return a, nil
}

// errSecret is about a value that is better not repeated.
var errSecret = errors.New("must hold no user name and no password, and no @")

// mirror takes the URL of an archive. A password in it would land in the image.
func mirror(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case strings.Contains(s, "@"):
		return "", errSecret
	case len(s) > maxMirror || !mirrorForm.MatchString(s) || err != nil:
		return "", errors.New("must be a URL without blanks, quotes, queries and fragments")
	case u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		return s, nil
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return "", errors.New("must begin with http://HOST, https://HOST or file:///")
	}
	return s, nil
}

// packageName returns the check for the names of a distribution's packages.
func packageName(distro string) func(string) (string, error) {
	if distro == distroAlpine {
		return match(apkForm, "must be the name of an Alpine package, without version")
	}
	return match(debForm, "must be the name of a Debian package, without version or suite")
}

// hostname is what a target is called by itself unless the recipe says: its
// name, with what a host name cannot have (RFC 1123) made a dash.
func hostname(target string) string {
	return strings.TrimRight(strings.ReplaceAll(target, "_", "-"), "-")
}

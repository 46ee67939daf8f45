package lint

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
)

// device is a rule about an element of a libvirt document.
type device struct {
	elements string                      // names, parted by blanks
	when     func(xml.StartElement) bool // nil: always
	what     string
	why      string
	fix      string
}

func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// is returns a condition: an attribute has one of these values.
func is(name string, values ...string) func(xml.StartElement) bool {
	return func(e xml.StartElement) bool {
		for _, v := range values {
			if attr(e, name) == v {
				return true
			}
		}
		return false
	}
}

const (
	moreCode = "each device is code of the host that a hostile guest talks to; meros and libvirt add none of these by themselves"
	leaveOut = "leave it out, unless the guest is of no use without it"
)

var devices = []device{
	{
		elements: "hostdev shmem filesystem",
		what:     "hands the guest a part of the host", why: "a device or folder of the host is a way out of the guest, past all filter rules",
		fix: "take it out, or write down in the recipe's README why it has to be",
	},
	{
		elements: "redirdev", what: "passes USB devices of the person's screen on to the guest",
		why: "a guest that drives a real device may attack it, and who plugs it in next", fix: leaveOut,
	},
	{
		elements: "disk", when: is("type", "block", "nvme", "vhostuser"),
		what: "hands the guest a disk of the host", why: "what it writes there is read by the host, or by the next guest", fix: "use an image: <disk type=\"file\">",
	},
	{
		elements: "backend", when: is("type", "passthrough"),
		what: "hands the guest the host's TPM", why: "its secrets are the host's own", fix: "take it out, or emulate it",
	},
	{
		elements: "smartcard", what: "gives the guest a smart card", why: "its secrets may be the person's own", fix: leaveOut,
	},
	{
		elements: "arg commandline", when: func(e xml.StartElement) bool { return strings.Contains(e.Name.Space, "qemu") },
		what: "passes arguments to QEMU by itself", why: "network cards made so pass by the policy", fix: "use libvirt's own elements",
	},
	{
		elements: "graphics listen", when: func(e xml.StartElement) bool {
			return is("listen", "0.0.0.0", "::", "*")(e) || is("address", "0.0.0.0", "::", "*")(e)
		},
		what: "the guest's screen is open to the network", why: "anybody who reaches the host sees it and types into it",
		fix: `listen on 127.0.0.1, or have <graphics type="spice"><listen type="none"/></graphics>`,
	},
	{
		elements: "dhcp", what: "the network hands out addresses",
		why: "a policy binds each port to the recipe's address, and a guest may have got another", fix: "give guests fixed addresses and take <dhcp> out",
	},
	{
		elements: "channel redirdev audio", when: is("type", "spicevmc", "spiceport", "spice"),
		what: "opens a channel between the guest and the person's desktop", why: "clipboard and files pass through it, whatever `meros run` allows", fix: leaveOut,
	},
	{
		elements: "sound audio", when: func(e xml.StartElement) bool { return attr(e, "type") != "none" },
		what: "gives the guest sound", why: "it may listen; " + moreCode, fix: leaveOut,
	},
	{elements: "input", when: is("type", "tablet"), what: "gives the guest a tablet", why: moreCode, fix: leaveOut},
	{
		elements: "input", when: is("type", "passthrough", "evdev"),
		what: "gives the guest the host's own keyboard or mouse", why: "it sees all that is typed", fix: "take it out",
	},
	{
		elements: "controller", when: func(e xml.StartElement) bool { return attr(e, "type") == "usb" && attr(e, "model") != "none" },
		what: "gives the guest a USB controller", why: moreCode, fix: leaveOut,
	},
	{
		elements: "acceleration", when: is("accel3d", "yes"),
		what: "the guest draws by the host's graphics driver", why: "that driver was never made for hostile programs", fix: `<acceleration accel3d="no"/>`,
	},
	{
		elements: "vsock", what: "opens a way between guest and host that is no network", why: "no filter rule sees it", fix: leaveOut,
	},
	{
		elements: "serial console parallel channel", when: is("type", "tcp", "udp", "dev", "pipe", "file", "unix"),
		what: "ties a port of the guest to a file, device or socket of the host", why: "what reads there has to take the guest's bytes as hostile", fix: `<serial type="pty"/>: meros keeps its log, bounded`,
	},
	{
		elements: "interface", when: is("type", "bridge", "direct", "user", "ethernet", "hostdev", "vhostuser"),
		what: "puts the guest on a network that is not the family's", why: "the policy knows only libvirt networks of the recipe", fix: `<interface type="network">`,
	},
	{
		elements: "seclabel", when: is("type", "none"),
		what: "takes away what confines QEMU on the host", why: "a guest that takes QEMU over then has all that its user has", fix: "leave it out: libvirt sets its own",
	},
	{
		elements: "watchdog", when: is("action", "dump"), what: "lets the guest fill the host's disk with its memory", why: "each dump is as large as its memory", fix: `action="poweroff"`,
	},
}

// bodies are rules about what stands in an element.
var bodies = []struct {
	element string
	text    *regexp.Regexp
	what    string
	why     string
	fix     string
}{
	{
		"on_crash", regexp.MustCompile(`^(restart|coredump-restart|rename-restart)$`),
		"starts the guest again when it has crashed", "each crash is another try for what attacks QEMU", "<on_crash>destroy</on_crash>",
	},
	{
		"on_crash", regexp.MustCompile(`^coredump`),
		"writes the guest's memory to the host's disk when it crashes", "what is in it stays there, and each is as large as its memory", "<on_crash>destroy</on_crash>",
	},
	{
		"emulator", regexp.MustCompile(`^([^/]|/usr/local/|/(home|tmp|opt|srv|var|root)/)`),
		"names a program that is not the distribution's QEMU", "it runs on the host, as libvirt's qemu user", "leave <emulator> out: libvirt knows its own",
	},
}

// libvirt looks at the elements of a libvirt document. One that is not
// well-formed is family.Load's to judge.
func (l *linter) libvirt(rel string, content []byte) {
	dec := xml.NewDecoder(bytes.NewReader(content))
	open := ""
	for {
		at := dec.InputOffset()
		token, err := dec.Token()
		if errors.Is(err, io.EOF) || err != nil {
			return
		}
		line := 1 + bytes.Count(content[:at], []byte("\n"))
		switch t := token.(type) {
		case xml.StartElement:
			open = t.Name.Local
			l.element(rel, line, t)
		case xml.EndElement:
			open = ""
		case xml.CharData:
			for _, b := range bodies {
				if open == b.element && b.text.MatchString(strings.TrimSpace(string(t))) {
					l.add(rel, line, b.what, b.why, b.fix)
				}
			}
		}
	}
}

func (l *linter) element(rel string, line int, e xml.StartElement) {
	for _, d := range devices {
		for _, name := range strings.Fields(d.elements) {
			if name == e.Name.Local && (d.when == nil || d.when(e)) {
				l.add(rel, line, d.what, d.why, d.fix)
			}
		}
	}
}

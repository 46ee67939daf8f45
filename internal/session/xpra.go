package session

import (
	"fmt"
	"slices"
)

// noConfig keeps both ends from configuration files of the system and the user,
// which could start programs or turn on what is off here.
var noConfig = []string{
	"XPRA_SYSTEM_CONF_DIRS=/nonexistent", "XPRA_USER_CONF_DIRS=/nonexistent", "XPRA_DEFAULT_CONF_DIRS=/nonexistent",
}

// borderWidth is in pixels.
const borderWidth = 4

// option is one of xpra's, which some versions lack.
type option struct {
	text        string
	since, till int // major versions; 0: all
}

// optionsFor returns those that a version has. An option that is not known ends
// xpra.
func optionsFor(v version, options []option) []string {
	var known []string
	for _, o := range options {
		if v.major >= o.since && (o.till == 0 || v.major <= o.till) {
			known = append(known, o.text)
		}
	}
	return known
}

// features are what windows may do more than show themselves: for each word of
// family.RunFeatures the options that turn it on and off, at both ends. Where the
// guest's end is not to be trusted, the host's decides.
func features(allow []string) []option {
	on := func(feature string) bool { return slices.Contains(allow, feature) }
	choose := func(name, feature, yes, no string) option {
		if on(feature) {
			return option{text: "--" + name + "=" + yes}
		}
		return option{text: "--" + name + "=" + no}
	}
	clipboard := []option{{text: "--clipboard=no"}}
	in, out := on("clipboard-to-guest"), on("clipboard-to-host")
	if in || out {
		way := "both"
		if !out {
			way = "to-server"
		} else if !in {
			way = "to-client"
		}
		clipboard = []option{{text: "--clipboard=yes"}, {text: "--clipboard-direction=" + way}}
	}
	dbus := choose("dbus-proxy", "dbus", "yes", "no")
	dbus.till = 5
	return append(clipboard,
		choose("speaker", "audio", "on", "disabled"),
		choose("microphone", "microphone", "on", "disabled"),
		choose("webcam", "webcam", "auto", "no"),
		choose("printing", "printing", "yes", "no"),
		choose("file-transfer", "files", "yes", "no"),
		option{text: "--open-files=no"},
		choose("open-url", "urls", "ask", "no"),
		choose("forward-xdg-open", "urls", "yes", "no"),
		choose("notifications", "notifications", "yes", "no"),
		choose("system-tray", "tray", "yes", "no"),
		dbus,
		option{text: "--bell=no"},
		option{text: "--mmap=no"},
		option{text: "--xsettings=no"},
		option{text: "--start-new-commands=no"},
	)
}

// attachArgs is the host's end: it shows what comes through a socket.
func attachArgs(v version, socket, fullID, border string, allow []string) []string {
	options := append(features(allow), []option{
		{text: "--title=@title@ on merOS::" + fullID},
		{text: "--session-name=" + fullID},
		{text: fmt.Sprintf("--border=%s,%d", border, borderWidth)},
		{text: "--challenge-handlers=none"}, // the guest is asked for nothing, and asks for nothing
		{text: "--remote-logging=no"},       // the guest does not get the host's log
		{text: "--tray=no"},
		{text: "--opengl=no"},
		{text: "--splash=no", since: 4},
		{text: "--reconnect=no", since: 4},
	}...)
	argv := append([]string{"env"}, noConfig...)
	argv = append(argv, "xpra", "attach", "socket://"+socket)
	return append(argv, optionsFor(v, options)...)
}

// serverIdle is after how many seconds without a host the guest's end ends.
const serverIdle = 300

// serveArgs are the options of the guest's end. Where its sockets are is added by
// the script that starts it.
func serveArgs(v version, allow []string) []string {
	audio := "no"
	if slices.Contains(allow, "audio") || slices.Contains(allow, "microphone") {
		audio = "auto"
	}
	bus := option{text: "--dbus-launch=no"}
	if slices.Contains(allow, "dbus") {
		bus.text = "--dbus-launch=dbus-launch --sh-syntax --close-stderr"
	}
	options := append(features(allow), []option{
		bus,
		{text: "--dbus-control=no"},
		{text: "--daemon=no"},
		{text: "--systemd-run=no"},
		{text: "--exit-with-children=no"},
		{text: "--pulseaudio=" + audio},
		{text: "--mdns=no"},
		{text: "--html=no"},
		{text: "--sharing=no"},
		{text: fmt.Sprintf("--server-idle-timeout=%d", serverIdle)},
	}...)
	return optionsFor(v, options)
}

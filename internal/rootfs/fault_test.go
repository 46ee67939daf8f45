package rootfs

import (
	"context"
	"errors"
	"strings"
	"testing"

	"meros/internal/hint"
	"meros/internal/proc"
)

func TestLastErrorTellsWhy(t *testing.T) {
	for stderr, want := range map[string]string{
		"Reading…\nE: Unable to locate package nosuch\nI: done\n": "E: Unable to locate package nosuch",
		"dpkg: error processing package foo (--configure):\n installed foo package post-installation script subprocess returned error exit status 1\n" +
			"Errors were encountered while processing:\n foo\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n": "dpkg: error processing package foo (--configure):; E: Sub-process /usr/bin/dpkg returned an error code (1)",
	} {
		exit := &proc.ExitError{Argv: []string{"apt-get"}, Code: 100, Stderr: stderr}
		if got, want := lastError(exit).Error(), "apt-get: exit status 100 ("+want+")"; got != want {
			t.Errorf("lastError = %q, want %q", got, want)
		}
	}
}

// What is damaged is thrown away, and what lacks a key is not.
func TestDamagedIsWhatIsNotAsSigned(t *testing.T) {
	for text, want := range map[string]bool{
		"E: Failed to fetch http://m/a.deb  Hash Sum mismatch":                   true,
		"ERROR: a-1.0-r0: BAD signature":                                         true,
		"WARNING: opening http://m/main: UNTRUSTED signature":                    false,
		"E: The repository 'http://m x InRelease' is not signed.":                false,
		"ERROR: unable to select packages:; lesss (no such package)":             false,
		"WARNING: opening http://m/main: UNTRUSTED signature; less: BAD archive": true,
	} {
		if got := Damaged(errors.New(text)); got != want {
			t.Errorf("Damaged(%s) = %v, want %v", text, got, want)
		}
	}
}

func TestAptErrorNamesWhatExcludesEachOther(t *testing.T) {
	exit := &proc.ExitError{Argv: []string{"apt-get"}, Code: 100, Stderr: "E: Unable to correct problems, you have held broken packages.\n"}
	printed := "Reading package lists...\n\nThe following packages have unmet dependencies:\n" +
		" postfix : Conflicts: mail-transport-agent\n exim4-config : Conflicts: postfix but 3.7.11 is to be installed\n" +
		"E: Unable to correct problems, you have held broken packages.\n"
	err := aptError(exit, printed)
	want := "apt-get: exit status 100 (packages that cannot be together; postfix : Conflicts: mail-transport-agent; exim4-config : Conflicts: postfix but 3.7.11 is to be installed)"
	if err.Error() != want || len(hint.Of(err)) == 0 {
		t.Errorf("aptError = %q, hints %q, want %q", err, hint.Of(err), want)
	}
}

// lister is a package manager that knows some names.
type lister struct{ names string }

func (l lister) Run(_ context.Context, c proc.Cmd) error {
	_, err := c.Stdout.Write([]byte(l.names))
	return err
}

func TestUnknownPackagesComeWithTheNearestNames(t *testing.T) {
	c := &chroot{tree: tree{"/x"}, r: lister{"less\nlsof\nvim\nvim-tiny\nopenssh-server\n"}}
	for text, want := range map[string]string{
		"E: Unable to locate package lesss":                              "lesss: the nearest names are less",
		"E: Package 'openssh-servr' has no installation candidate":       "openssh-servr: the nearest names are openssh-server",
		"E: Unable to locate package lss; E: Unable to locate package v": "lss: the nearest names are less, lsof",
	} {
		err := c.suggest(t.Context(), errors.New(text), aptUnknown, "list")
		if got := strings.Join(hint.Of(err), "\n"); !strings.Contains(got, want) || !strings.Contains(got, "<packages>") {
			t.Errorf("%s: hints %q, want %q", text, got, want)
		}
	}
	err := c.suggest(t.Context(), errors.New("ERROR: unable to select packages:\n  vimm (no such package):\n    required by: world[vimm]"), apkUnknown, "list")
	if got := strings.Join(hint.Of(err), "\n"); !strings.Contains(got, "vimm: the nearest names are vim") {
		t.Errorf("of apk: hints %q", got)
	}
	other := errors.New("disk full")
	if err := c.suggest(t.Context(), other, aptUnknown, "list"); !errors.Is(err, other) || len(hint.Of(err)) != 0 {
		t.Errorf("another error got %q", hint.Of(err))
	}
}

func TestBootstrapHintsGoByTheSurestWords(t *testing.T) {
	b := Bootstrap{Tool: "mmdebstrap", Distro: "kali", Suite: "kali-rolling"}
	for text, want := range map[string]string{
		"E: Failed to fetch http://m/Packages  Hash Sum mismatch":                                     "not what its signed index says",
		"E: The repository 'http://m x InRelease' is not signed.":                                     "not signed by a key of /usr/share/keyrings/kali-archive-keyring.gpg (package kali-archive-keyring)",
		"E: Release file for http://m/InRelease is expired (invalid since 1d). Updates will not be …": "an old index",
		"E: The repository 'http://m x Release' does not have a Release file.; Failed to fetch … 404": `no suite "kali-rolling"`,
		"E: Failed to fetch http://m/InRelease  502  Bad Gateway":                                     "cannot be reached",
	} {
		if got := hint.Of(bootstrapHint(errors.New(text), b)); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%s: hints %q, want %q", text, got, want)
		}
	}
}

package rootfs

import (
	"slices"
	"strings"
	"testing"

	"meros/internal/hint"
	"meros/internal/proc"
	"meros/internal/proc/proctest"
)

// What apt prints for a version that the archive has dropped, and for one that was
// changed under its name.
const (
	dropped = "Err:1 http://m.example/debian trixie/main amd64 less amd64 590-2\n  404  Not Found [IP: 192.0.2.1 80]\n" +
		"E: Failed to fetch http://m.example/pool/less.deb  404  Not Found [IP: 192.0.2.1 80]\n" +
		"E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?\n"
	mismatch = "Err:1 http://m.example/debian trixie/main amd64 less amd64 590-2\n  Hash Sum mismatch\n   Hashes of expected file:\n"
)

func TestListsOfAnEarlierDayAreBroughtUpToDateOnce(t *testing.T) {
	install := "chroot /x " + strings.Join(aptGet, " ") + " install -- less"
	exit := &proc.ExitError{Argv: []string{"apt-get"}, Code: 100, Stderr: "E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?\n"}
	update := proctest.Call{Line: "chroot /x apt-get -q update"}
	for name, tt := range map[string]struct {
		calls []proctest.Call
		want  string // of the error
		hint  string
	}{
		"dropped":  {[]proctest.Call{{Line: install, Out: dropped, Err: exit}, update, {Line: install}}, "", ""},
		"mismatch": {[]proctest.Call{{Line: install, Out: mismatch, Err: exit}, update, {Line: install}}, "", ""},
		"for good": {[]proctest.Call{{Line: install, Out: dropped, Err: exit}, update, {Line: install, Out: dropped, Err: exit}}, "install packages: ", "meros build --refresh"},
		"no lists": {[]proctest.Call{{Line: install, Out: dropped, Err: exit}, {Line: update.Line, Err: exit}}, "install packages: ", "meros build --refresh"},
		"another fault": {
			[]proctest.Call{{Line: install, Out: "Setting up file-404 (404) ...\n", Err: &proc.ExitError{Argv: []string{"apt-get"}, Code: 100, Stderr: "E: Sub-process /usr/bin/dpkg returned an error code (1)\n"}}},
			"install packages: ", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := &chroot{tree: tree{"/x"}, r: proctest.Script(t, tt.calls...)}
			err := c.apt(t.Context(), "install packages", slices.Concat(aptGet, []string{"install", "--", "less"})...)
			if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("error %v, want one that begins with %q", err, tt.want)
			}
			if got := strings.Join(hint.Of(err), "\n"); !strings.Contains(got, tt.hint) || tt.hint == "" && got != "" {
				t.Errorf("hints %q, want %q", got, tt.hint)
			}
		})
	}
}

package main

import (
	"strings"
	"testing"
)

func TestModernArgs(t *testing.T) {
	for in, want := range map[string]string{
		"--build mos_sec":                     "build mos_sec",
		"--build=mos_sec guest":               "build mos_sec guest",
		"mos_sec --build":                     "build mos_sec",
		"--init mos_sec":                      "init mos_sec",
		"-i mos_sec":                          "init mos_sec",
		"--init target mos_sec-guest":         "init mos_sec-guest",
		"mos_sec-guest --init":                "init mos_sec-guest",
		"--shutdown":                          "shutdown",
		"--shutdown mos_sec":                  "shutdown mos_sec",
		"--shutdown-all":                      "shutdown-all",
		"-c mos_sec-guest":                    "connect mos_sec-guest",
		"mos_sec-guest -c":                    "connect mos_sec-guest",
		"mos_sec-guest --connect":             "connect mos_sec-guest",
		"--run mos_sec-guest firefox --new-w": "run mos_sec-guest firefox --new-w",
		"mos_sec-guest --run firefox --new-w": "run mos_sec-guest firefox --new-w",
		"--push mos_sec-guest a b":            "push mos_sec-guest a b",
		"mos_sec-guest --push a":              "push mos_sec-guest a",
		"--pull mos_sec-guest":                "pull mos_sec-guest",
		"--info":                              "info",
		"--log":                               "log",
		"--kernel-build":                      "kernel-build",
		"--root /x --verbose --build mos_sec": "--root /x --verbose build mos_sec",
		"--root=/x mos_sec --build":           "--root=/x build mos_sec",
		"-h":                                  "-h",
		"-v":                                  "-v",
		"":                                    "",
		"--root":                              "--root",
		"exec mos_sec-guest -- bash -c id":    "exec mos_sec-guest -- bash -c id",
		"build mos_sec":                       "build mos_sec",
		"exec -c x":                           "exec -c x",
		"__complete --build mos_":             "__complete build mos_",
		"__complete mos_sec --build gu":       "__complete build mos_sec gu",
		"__complete --build":                  "__complete --build",
		"__completeNoDesc -c mos_":            "__completeNoDesc connect mos_",
	} {
		got := strings.Join(modernArgs(strings.Fields(in)), " ")
		if got != want {
			t.Errorf("modernArgs(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzModernArgs(f *testing.F) {
	f.Add("mos_sec --build")
	f.Add("--root")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		before := strings.Join(args, " ")
		modernArgs(args)
		if after := strings.Join(args, " "); after != before {
			t.Errorf("modernArgs changed its argument to %q", after)
		}
	})
}

package session

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"meros/internal/proc"
)

var nasty = []string{
	"", " ", "'", "''", `\`, `\'`, `"`, "$HOME", "`id`", "$(id)", "a b", "*", "?", "[a-z]", "~", "~root", "-n", "--", "!", "!!",
	"#x", "a;b", "a&b", "a|b", "a>b", "<a", "(a)", "{a,b}", "FOO=bar", "if", "\n", "a\nb\n", "\t", "\r", "\x01\x1b[31m", "\xff\xfe",
	"é", "日本", "%s", "a'b'c", `'\''`, `$'\n'`, "\x7f",
}

// sh runs a line as sshd does and returns its output.
func sh(t testing.TB, line string) string {
	t.Helper()
	var out bytes.Buffer
	err := proc.Host{}.Run(t.Context(), proc.Cmd{Argv: []string{"/bin/sh", "-c", line}, Stdout: &out})
	if err != nil {
		t.Fatalf("sh -c %q: %v", line, err)
	}
	return out.String()
}

func TestCommandLineKeepsEveryByte(t *testing.T) {
	var all []byte
	for b := 1; b < 256; b++ {
		all = append(all, byte(b))
	}
	args := append([]string{string(all)}, nasty...)
	line, err := commandLine(append([]string{"printf", `%s\0`}, args...), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(sh(t, line), "\x00"), "\x00")
	if len(got) != len(args) {
		t.Fatalf("got %d arguments, want %d", len(got), len(args))
	}
	for i := range args {
		want(t, "argument", got[i], args[i])
	}
}

func TestCommandLineRunsNoKeywordAndNoAssignment(t *testing.T) {
	for _, word := range []string{"if", "FOO=bar", "!", "{"} {
		line, err := commandLine([]string{word, "x"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var errs bytes.Buffer
		err = proc.Host{}.Run(t.Context(), proc.Cmd{Argv: []string{"/bin/sh", "-c", line}, Stderr: &errs})
		if exit, ok := errors.AsType[*proc.ExitError](err); !ok || exit.Code != 127 {
			t.Errorf("%q: error %v, want status 127: not found", word, err)
		}
	}
}

func TestCommandLineSetsVariables(t *testing.T) {
	for _, value := range nasty {
		line, err := commandLine([]string{"sh", "-c", `printf %s. "$FOO"`}, []string{"FOO=" + value, "B_1=2"})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "$FOO", sh(t, line), value+".")
	}
}

func TestCommandLineRefuses(t *testing.T) {
	for _, c := range []struct {
		argv, env []string
		words     string
	}{
		{nil, nil, "no command"},
		{[]string{"a", "b\x00c"}, nil, "argument 1 holds a NUL byte"},
		{[]string{"a"}, []string{"A"}, "want NAME=VALUE"},
		{[]string{"a"}, []string{"1A=x"}, "no variable's name"},
		{[]string{"a"}, []string{"A;id=x"}, "no variable's name"},
		{[]string{"a"}, []string{"A=\x00"}, "NUL"},
	} {
		if _, err := commandLine(c.argv, c.env); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("commandLine(%q, %q): error %v, want one with %q", c.argv, c.env, err, c.words)
		}
	}
}

func FuzzQuote(f *testing.F) {
	for _, s := range nasty {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		line, err := commandLine([]string{"printf", "%s.", s}, nil)
		if strings.ContainsRune(s, 0) {
			if err == nil {
				t.Fatal("a NUL byte passed")
			}
			return
		}
		if got := sh(t, line); got != s+"." {
			t.Fatalf("%q came as %q", s+".", got)
		}
	})
}

package session

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"meros/internal/proc"
)

var nasty = []string{
	"", " ", "'", "''", `\`, `\'`, `"`, "$HOME", "`id`", "$(id)", "a b", "*", "?", "[a-z]", "~", "~root", "-n", "--", "!", "!!",
	"#x", "a;b", "a&b", "a|b", "a>b", "<a", "(a)", "{a,b}", "FOO=bar", "if", "\n", "a\nb\n", "\t", "\r", "\x01\x1b[31m", "\xff\xfe",
	"é", "日本", "%s", "a'b'c", `'\''`, `$'\n'`, "\x7f",
}

// sh runs a line as sshd does for a user of /bin/sh, and returns its output.
func sh(t testing.TB, line string) string {
	t.Helper()
	return inShell(t, line, "/bin/sh")
}

func inShell(t testing.TB, line string, shell ...string) string {
	t.Helper()
	var out bytes.Buffer
	err := proc.Host{}.Run(t.Context(), proc.Cmd{Argv: append(shell, "-c", line), Stdout: &out})
	if err != nil {
		t.Fatalf("%s -c %q: %v", shell, line, err)
	}
	return out.String()
}

// Each shell is asked that a guest's user may have.
func TestCommandLineKeepsEveryByte(t *testing.T) {
	var all []byte
	for b := 1; b < 256; b++ {
		all = append(all, byte(b))
	}
	args := append([]string{string(all)}, nasty...)
	t.Setenv("HOME", t.TempDir()) // nobody's settings
	for _, shell := range []string{"sh", "bash", "dash", "busybox sh", "zsh", "mksh", "fish", "tcsh"} {
		t.Run(shell, func(t *testing.T) {
			argv := strings.Fields(shell)
			if _, err := proc.Find(argv[0]); err != nil {
				t.Skip(err)
			}
			sent := slices.Clone(args)
			if shell == "tcsh" { // it has no way to write a newline that others have
				sent = slices.DeleteFunc(sent, func(s string) bool { return strings.Contains(s, "\n") })
			}
			line, err := commandLine(append([]string{"printf", `%s\0`}, sent...), nil)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Split(strings.TrimSuffix(inShell(t, line, argv...), "\x00"), "\x00")
			if len(got) != len(sent) {
				t.Fatalf("got %d arguments, want %d", len(got), len(sent))
			}
			for i := range sent {
				want(t, "argument", got[i], sent[i])
			}
		})
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

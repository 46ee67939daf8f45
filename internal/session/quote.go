package session

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var errNUL = errors.New("holds a NUL byte, which no program can be given")

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// CheckEnv reports why a setting, NAME=VALUE, cannot be given to a command.
func CheckEnv(setting string) error {
	name, value, ok := strings.Cut(setting, "=")
	switch {
	case !ok:
		return fmt.Errorf("%q is no setting: want NAME=VALUE", setting)
	case !envName.MatchString(name):
		return fmt.Errorf("%q is no variable's name: letters, digits and _, no digit first", name)
	case strings.ContainsRune(value, 0):
		return fmt.Errorf("the value of %s %w", name, errNUL)
	}
	return nil
}

// commandLine returns the line that makes the user's shell run argv as it stands,
// with env, each NAME=VALUE, set, which csh cannot. SSH has no argument vectors: a
// guest's sshd hands one string to that shell (RFC 4254, 6.5).
func commandLine(argv, env []string) (string, error) {
	if len(argv) == 0 {
		return "", errors.New("no command")
	}
	words := make([]string, 0, len(env)+len(argv))
	for _, setting := range env {
		if err := CheckEnv(setting); err != nil {
			return "", err
		}
		name, value, _ := strings.Cut(setting, "=")
		words = append(words, name+"="+quote(value))
	}
	for i, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			return "", fmt.Errorf("argument %d %w", i, errNUL)
		}
		words = append(words, quote(arg))
	}
	return strings.Join(words, " "), nil
}

// outsideQuotes are what shells understand alike only behind a backslash outside
// single quotes: in them \\ and \' are one character for fish, and ! recalls a line
// for csh.
var outsideQuotes = strings.NewReplacer(`'`, `'\''`, `\`, `'\\'`, `!`, `'\!'`)

// quote makes any string without NUL one word of a POSIX shell, and of fish; of csh,
// where it has no newline. A word that is quoted is never an alias or an assignment,
// nor, but in fish, a keyword.
func quote(s string) string { return "'" + outsideQuotes.Replace(s) + "'" }

package netfilter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"meros/internal/hint"
	"meros/internal/proc"
)

// nft(8) is what loads rules, and not netlink by hand: it is the one reader of
// .nft files, so that a family's own files and what was compiled are one
// transaction, in a text that a person can read. It takes the text from its
// standard input; nothing of it is an argument.
func nft(ctx context.Context, r proc.Runner, text string, out io.Writer, args ...string) error {
	program, err := proc.Find("nft")
	if err != nil {
		return hint.Add(fmt.Errorf("load filter rules: %w", err), "install nftables")
	}
	if len(args) == 0 {
		args = []string{"-f", "-"}
	}
	err = r.Run(ctx, proc.Cmd{Argv: append([]string{program}, args...), Stdin: strings.NewReader(text), Stdout: out})
	if exit, ok := errors.AsType[*proc.ExitError](err); ok {
		if strings.Contains(exit.Stderr, "Operation not permitted") {
			return hint.Add(fmt.Errorf("nft: %w: only root may see and change filter rules", fs.ErrPermission),
				"a family with a policy takes root: use sudo; the group libvirt does not do")
		}
		return fmt.Errorf("nft: %s", strings.TrimSpace(firstLines(exit.Stderr, 4)))
	}
	return err
}

func firstLines(text string, n int) string {
	lines := strings.SplitN(text, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n")
}

// kinds are the families of tables, in nft's sense, that a rule set may have.
var kinds = []string{"bridge", "inet"}

// Listing returns a family's rules as the kernel has them, without what changes
// by itself; "" if there are none.
func Listing(ctx context.Context, r proc.Runner, family string) (string, error) {
	return listing(ctx, r, family, "-s", "-t")
}

// Counters returns the same with counters.
func Counters(ctx context.Context, r proc.Runner, family string) (string, error) {
	return listing(ctx, r, family, "-t")
}

func listing(ctx context.Context, r proc.Runner, family string, flags ...string) (string, error) {
	var b bytes.Buffer
	there, err := tables(ctx, r)
	if err != nil {
		return "", err
	}
	for _, kind := range kinds {
		if !there[kind+" "+Table(family)] {
			continue
		}
		if err := nft(ctx, r, "", &b, append(flags, "list", "table", kind, Table(family))...); err != nil {
			return "", fmt.Errorf("read back the rules of %s: %w", family, err)
		}
	}
	return b.String(), nil
}

// tables returns the names of all tables, as "inet filter".
func tables(ctx context.Context, r proc.Runner) (map[string]bool, error) {
	var b bytes.Buffer
	if err := nft(ctx, r, "", &b, "list", "tables"); err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	there := map[string]bool{}
	for line := range strings.Lines(b.String()) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "table "); ok {
			there[name] = true
		}
	}
	return there, nil
}

// noNamespace words that the kernel gives nobody but root a network namespace.
func noNamespace(err error) error {
	return hint.Add(err, "call it with sudo, or allow user namespaces: sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns")
}

// Load puts a rule set in place as one transaction, reads it back and returns its
// listing. What the listing has to be, a namespace that nobody is in has told
// before. If it is another that is an error, and the rules stay: too many are better
// than none.
func Load(ctx context.Context, r proc.Runner, s Ruleset) (string, error) {
	want, err := inNamespace(ctx, r, order{Family: s.Family, Try: s.Text})
	if err != nil {
		return "", fmt.Errorf("filter rules of %s: %w", s.Family, err)
	}
	if err := nft(ctx, r, s.Text, nil); err != nil {
		return "", fmt.Errorf("load the filter rules of %s: %w", s.Family, err)
	}
	got, err := Listing(ctx, r, s.Family)
	if err == nil && got != want.Listing {
		err = fmt.Errorf("the filter rules of %s are not there as they were loaded: something else on this host changes them", s.Family)
	}
	return got, err
}

// Remove takes a family's tables away, if there are any.
func Remove(ctx context.Context, r proc.Runner, family string) error {
	there, err := tables(ctx, r)
	if err != nil {
		return err
	}
	text := ""
	for _, kind := range kinds {
		if there[kind+" "+Table(family)] {
			text += "delete table " + kind + " " + Table(family) + "\n"
		}
	}
	if text == "" {
		return nil
	}
	if err := nft(ctx, r, text, nil); err != nil {
		return fmt.Errorf("remove the filter rules of %s: %w", family, err)
	}
	return nil
}

// try loads a rule set into the namespace of this process and lists it. A rule
// set that made or changed any table but the family's is refused.
func try(ctx context.Context, o order) (string, error) {
	r := proc.Host{}
	if err := nft(ctx, r, canary, nil); err != nil {
		return "", err
	}
	if err := nft(ctx, r, o.Try, nil); err != nil {
		return "", err
	}
	there, err := tables(ctx, r)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = nft(ctx, r, "", &b, "list", "table", "ip", "meros_canary")
	for _, kind := range kinds {
		delete(there, kind+" "+Table(o.Family))
	}
	if err != nil || b.String() != canary || len(there) != 1 {
		return "", errors.New("they touch tables of others")
	}
	return Listing(ctx, r, o.Family)
}

// canary is a table that no rule set has any business with, as nft lists it.
const canary = "table ip meros_canary {\n\tchain c {\n\t}\n}\n"

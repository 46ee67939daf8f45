package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"meros/internal/ui"
)

// commandTree is all commands of meros, doing nothing.
func commandTree() *cobra.Command {
	e := &env{Streams: &ui.Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}, Getenv: os.Getenv}
	root := newRootCmd(e)
	root.InitDefaultHelpFlag()
	root.InitDefaultVersionFlag()
	return root
}

// checkLine reports why a command line would be a wrong call: a subcommand, flag
// or number of arguments that meros does not know.
func checkLine(words []string) error {
	root := commandTree()
	cmd, rest, err := root.Find(modernArgs(words))
	if err != nil {
		return err
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if help, _ := cmd.Flags().GetBool("help"); help {
		return nil
	}
	if rest = cmd.Flags().Args(); cmd == root {
		if len(rest) > 0 {
			return unknownCommand(root, rest[0])
		}
		return nil
	}
	return cmd.ValidateArgs(rest)
}

// shown finds command lines in prose: `meros …` and lines that begin with it, be
// it behind a prompt, sudo or bin/.
var shown = regexp.MustCompile("(?m)`(?:sudo )?meros( [^`]*)?`|^ {4}(?:\\$ )?(?:sudo )?(?:bin/)?meros( [^\\n]*)?$")

// placeholder is <a name to put in>.
var placeholder = regexp.MustCompile(`<[a-z]+ [a-z]+>`)

// words splits a line as far as documentation needs: quotes hold blanks, and
// what is meant for the shell ends it.
func words(line string) []string {
	line, _, _ = strings.Cut(placeholder.ReplaceAllString(line, "x"), " #")
	var words []string
	for _, quoted := range regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`).FindAllString(line, -1) {
		if strings.ContainsAny(quoted[:1], "|<>;&") {
			break
		}
		words = append(words, strings.Trim(quoted, `'"`))
	}
	return words
}

func documents(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(docs) == 0 {
		t.Fatalf("no docs: %v", err)
	}
	more, err := filepath.Glob("../../conf/target/*/*.md")
	if err != nil {
		t.Fatal(err)
	}
	return append(append(docs, more...), "../../README.md", "../../ARCHITECTURE.md")
}

func TestCommandLinesInDocuments(t *testing.T) {
	for _, file := range documents(t) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range shown.FindAllStringSubmatch(string(content), -1) {
			line := m[1] + m[2]
			if mention := commandTree(); m[1] != "" && len(words(line)) == 1 {
				// A sentence may name a command without its arguments.
				if cmd, _, err := mention.Find(words(line)); err == nil && cmd != mention {
					continue
				}
			}
			if err := checkLine(words(line)); err != nil {
				t.Errorf("%s: meros%s: %v", filepath.Base(file), line, err)
			}
		}
	}
}

// TestExamples holds every command to having examples that are right.
func TestExamples(t *testing.T) {
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			check(sub)
		}
		if cmd.Hidden {
			return
		}
		if cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			_, line, ok := strings.Cut(strings.TrimSpace(line), "meros ")
			if ok && !strings.Contains(line, "$(") {
				if err := checkLine(words(strings.TrimSuffix(line, ")"))); err != nil {
					t.Errorf("%s: example: meros %s: %v", cmd.CommandPath(), line, err)
				}
			}
		}
	}
	check(commandTree())
}

// knownAttributes reads what a build file may hold out of internal/family, which
// keeps it to itself.
func knownAttributes(t *testing.T) map[string][]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../internal/family/build.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Names[0].Name != "elements" {
			return true
		}
		for _, pair := range spec.Values[0].(*ast.CompositeLit).Elts {
			kv := pair.(*ast.KeyValueExpr)
			element := unquote(t, kv.Key)
			known[element] = nil
			for _, attr := range kv.Value.(*ast.CompositeLit).Elts {
				known[element] = append(known[element], unquote(t, attr))
			}
		}
		return false
	})
	if len(known) == 0 {
		t.Fatal("internal/family/build.go has no table of elements any more: mend this test")
	}
	return known
}

func unquote(t *testing.T, e ast.Expr) string {
	t.Helper()
	s, err := strconv.Unquote(e.(*ast.BasicLit).Value)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRecipeIsDocumented(t *testing.T) {
	known := knownAttributes(t)
	for file, form := range map[string]struct{ element, attribute string }{
		"../../docs/recipe.md":     {"| `<%>`", "| `%` |"},
		"../../man/meros-recipe.5": {".SS <%>\n", ".TP\n.B %\n"},
	} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
			continue
		}
		for element, attributes := range known {
			if want := strings.ReplaceAll(form.element, "%", element); !strings.Contains(string(content), want) {
				t.Errorf("%s does not tell of the element <%s>: want %q", file, element, want)
			}
			for _, attribute := range attributes {
				if want := strings.ReplaceAll(form.attribute, "%", attribute); !strings.Contains(string(content), want) {
					t.Errorf("%s does not tell of %s: %s: want %q", file, element, attribute, want)
				}
			}
		}
	}
}

package kernel

import (
	"errors"
	"fmt"
	"strings"

	"meros/internal/hint"
)

// Unmet compares a final .config with what was asked: kconfig drops a symbol
// whose dependencies are not met without a word. The error names each such
// symbol with the line that asks for it.
func Unmet(asks []Ask, config string) error {
	have := parseConfig(config)
	var faults []error
	for _, a := range asks {
		if got, ok := have[a.Symbol]; !met(a, got, ok) {
			faults = append(faults, fault(a, got, ok))
		}
	}
	return hint.Add(errors.Join(faults...), "ask for what the symbol depends on too (make menuconfig shows it under /), or write ?%s… where it may be absent", "CONFIG_")
}

func met(a Ask, got string, known bool) bool {
	switch {
	case a.Value == "n":
		return !known || got == "n"
	case a.Optional && (!known || got == "n"):
		return true
	}
	return got == a.Value
}

func fault(a Ask, got string, known bool) error {
	switch {
	case a.Value == "n":
		return fmt.Errorf("%s: %s is to be off, but something else turns it on (%s)", a.at(), a.Symbol, got)
	case !known:
		return fmt.Errorf("%s: %s=%s is asked for, but the kernel left it out: what it depends on is off, or this version has no such symbol", a.at(), a.Symbol, a.Value)
	case got == "n":
		return fmt.Errorf("%s: %s=%s is asked for, but it is off", a.at(), a.Symbol, a.Value)
	}
	return fmt.Errorf("%s: %s=%s is asked for, but it is %s", a.at(), a.Symbol, a.Value, got)
}

// parseConfig reads a .config; symbols that are off have the value n.
func parseConfig(config string) map[string]string {
	have := map[string]string{}
	for line := range strings.Lines(config) {
		line = strings.TrimSpace(line)
		if off := offForm.FindStringSubmatch(line); off != nil {
			have[off[1]] = "n"
			continue
		}
		if name, value, ok := strings.Cut(line, "="); ok && strings.HasPrefix(name, "CONFIG_") {
			have[name] = value
		}
	}
	return have
}

// builtIn counts the symbols that are on.
func builtIn(config string) int {
	n := 0
	for _, value := range parseConfig(config) {
		if value == "y" {
			n++
		}
	}
	return n
}

package netfilter

import (
	"context"
	"fmt"

	"meros/internal/family"
	"meros/internal/proc"
)

// Finding is what came of one packet of a proof.
type Finding struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	What    string   `json:"what"`
	Packet  string   `json:"packet"`
	Bridged bool     `json:"brNetfilter"` // whether br_netfilter handed frames to the inet hooks
	Alone   bool     `json:"alone"`       // whether the other family on the host had no rules
	Want    bool     `json:"want"`        // whether the policy lets it pass
	Got     bool     `json:"got"`
	Leaks   []string `json:"leaks,omitempty"` // where else it came out
	Trouble string   `json:"trouble,omitempty"`
}

// Good reports whether the rules did what the policy says.
func (f Finding) Good() bool { return f.Want == f.Got && len(f.Leaks) == 0 && f.Trouble == "" }

// Proof is what `meros prove` found.
type Proof struct {
	Family     string    `json:"family"`
	Matrix     []Cell    `json:"matrix"`
	Assertions []Verdict `json:"assertions"`
	Packets    int       `json:"packets"` // that were sent and judged
	Faults     []Finding `json:"faults"`  // those of them that were not as the policy says
	NoBridgeNF bool      `json:"noBrNetfilter,omitempty"`
}

// Holds reports whether all is as the recipe says.
func (p Proof) Holds() bool {
	for _, v := range p.Assertions {
		if !v.Holds {
			return false
		}
	}
	return len(p.Faults) == 0
}

// setting is what a proof is repeated under.
type setting struct {
	bridged bool // br_netfilter hands bridged frames to the inet hooks
	alone   bool // the other family on the host has no rules, so that ours alone part them
}

var settings = []setting{{}, {bridged: true}, {alone: true}}

// Prove judges a policy's assertions, then loads its rules in a network namespace
// of its own, sends the packets there and compares. Nothing of the host changes.
func Prove(ctx context.Context, r proc.Runner, f *family.Family, rules Ruleset) (Proof, error) {
	out := Proof{Family: f.Name, Matrix: Matrix(f), Assertions: Assess(f), Faults: []Finding{}}
	for _, under := range settings {
		found, err := proveUnder(ctx, r, f, rules, under)
		if err != nil {
			return out, fmt.Errorf("prove %s: %w", f.Name, err)
		}
		out.NoBridgeNF = out.NoBridgeNF || found == nil
		for _, finding := range found {
			out.Packets++
			if !finding.Good() {
				out.Faults = append(out.Faults, finding)
			}
		}
	}
	return out, nil
}

// proveUnder sends the packets under one setting; nil if the kernel has it not.
func proveUnder(ctx context.Context, r proc.Runner, f *family.Family, rules Ruleset, under setting) ([]Finding, error) {
	l := newScene(f, rules)
	l.links()
	l.bench.Rules = []string{rules.Text}
	if !under.alone {
		other, err := l.otherRules()
		if err != nil {
			return nil, err
		}
		l.bench.Rules = append(l.bench.Rules, other.Text)
	}
	l.bench.Sysctls = sysctls(under.bridged)
	l.probes()
	got, err := inNamespace(ctx, r, order{Bench: &l.bench})
	if err != nil || under.bridged && got.NoNF {
		return nil, err
	}
	return l.judge(got.Sightings, under), nil
}

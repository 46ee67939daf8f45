// Package bench measures meros against its floors and peers, interleaved in one
// run: machines differ and drift, so only ratios from one run mean anything.
// make bench runs it; docs/performance.md says what came of it.
package bench

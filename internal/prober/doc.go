// Package prober is the part of `meros verify` that runs inside a guest: it sends what
// it is told to, and says how each thing went.
//
// Words: an order is a list of shots; a shot is one packet, or one attempt of a
// connection. Orders go in as JSON on standard input, one, and what came of the shots
// comes out as JSON, a line each.
//
// What a guest says is hearsay. It may have replaced the probe, and so Listen takes
// its lines as hostile bytes: bounded, of known shots and of known words only. No
// verdict rests on them; they explain what was, or was not, seen from outside. The
// package knows nothing of families and policies.
package prober

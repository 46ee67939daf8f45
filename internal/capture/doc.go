// Package capture sees the frames that pass this host's links, and decodes them.
//
// Words: a link is a network device of the host; a frame goes out of a link when
// the host sends it there, and comes in when whoever is at the other end did. What
// comes out of a guest's port comes in at the host's end of it.
//
// A frame is what a stranger sent. Decode takes any bytes and says what it could
// make of them; it refuses nothing and believes no length that the bytes do not
// bear out. The package knows nothing of families and policies.
package capture

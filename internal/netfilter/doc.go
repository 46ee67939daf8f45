// Package netfilter makes a family's policy true on this host: it compiles
// netfilter/policy.xml to nftables, loads the rules as one transaction, reads them
// back, takes them away, and proves in a throw-away network namespace that they do
// what the policy says.
//
// Words: a rule set is the text for nft(8) of one family; its tables are inet and
// bridge meros_<family>, and no other table is ever touched but the guard, inet meros,
// which is one for all families of the host. A port is a guest's
// interface on a bridge, known to the rules by its name on the host, its MAC and
// its addresses. The matrix is who reaches whom, as the policy says it.
//
// Everything that a rule names was checked to be an address, a number or a name of
// letters; the package knows nothing of libvirt.
package netfilter

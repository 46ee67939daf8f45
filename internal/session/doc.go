// Package session opens sessions on guests over SSH: shells, commands, and
// files pushed and pulled over SFTP.
//
// Words: a Conn is one authenticated connection to a target; the client key
// opens it; the host key, made when the target was built, is the only one
// accepted. The shared folder is ~/mos-shared in the guest and
// data/mos-shared/<full-id> on the host.
//
// A guest is hostile. Its names, links, sizes and kinds of file are checked
// before they touch a path of the host, everything pulled is bounded in number,
// depth and bytes and lands through os.Root, and its words reach the terminal
// only in one cleaned line. Its banner is not shown. What a shell or a command
// prints is the caller's to see and goes out as it came.
//
// The package does not know how a target is built or booted.
package session

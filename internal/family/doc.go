// Package family reads a recipe folder, conf/target/<family>/, into plain data
// and reports every fault in it, each with file and line.
//
// Words: a family is a set of targets; a target is one virtual machine; its full
// id is <family>-<target>. The package knows what a recipe says, and nothing of
// libvirt, chroots or SSH. It reads only files below the recipe's folder.
package family

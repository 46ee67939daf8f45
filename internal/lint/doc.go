// Package lint looks for what is valid in a recipe and unwise: passwords that
// everybody knows, programs from the network that nobody checked, holes in what
// isolates guests. It reads the recipe's own files and nothing else, and changes
// none.
//
// A finding is advice: older families that have some run as they are.
package lint

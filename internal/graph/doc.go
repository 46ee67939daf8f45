// Package graph draws a family: its targets, its networks, the addresses by which
// they meet, and what its policy allows. It reads the recipe and nothing else, so
// that the same recipe always gives the same picture.
package graph

// Package examples holds the configurations that the documentation and the
// demo use, embedded so that the program needs no files beside it.
package examples

import "embed"

// Demo is the folder demo: two pretend clusters, east and west.
//
//go:embed demo
var Demo embed.FS

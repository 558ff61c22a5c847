// Package show writes the views of package console for people and programs.
//
// It promises that equal views give equal bytes (the time is in the view), that
// no name from a cluster can move a cursor, hide text or colour it, and that
// JSON and YAML carry a version. Asking for views is left to others.
package show

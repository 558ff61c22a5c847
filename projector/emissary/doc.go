// Package emissary says what Emissary-ingress's resources mean, in the words
// of projector/ir.
//
// It promises Emissary's exact rules for the association of Hosts, Listeners
// and Mappings, for the order of routes, for canary groups and for service
// names, except where DESIGN.md lists a fault of Emissary's that is fixed. All
// of it is functions of values: a resource and what it looks up through a
// World go in, a value and findings come out. Which of them run again after a
// change is left to projector/compile, and so is everything about several
// clusters in one fleet.
package emissary

// Package console is the HTTP API of an install, and its client.
//
// It promises that only the roles that an operation is for get an answer; that
// answers are made of the view types here, field by field, so that nothing that
// is not named in them leaves the process, bodies of Secrets least of all; that
// every request is bounded in size, time and number; and that an error is an
// RFC 9457 problem that says what to do.
//
// What is decided, and whether, is left to federation/hub; opening ports and
// TLS to the caller; showing views to people to console/show.
package console

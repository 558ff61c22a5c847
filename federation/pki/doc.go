// Package pki gives the parts of an install their identities: a certificate
// authority, the hub's key for decisions, certificates that say who a part is,
// and TLS configurations that let in only whom they name.
//
// It promises that a certificate's identity is its URI,
// chancery://<install>/<role>/<name>, and nothing else in it; that a connection
// is mutual TLS 1.3 between roles that were named; that private keys are
// written with mode 0600, in whole or not at all, and refused when others can
// read them; and that keys print as "redacted". Certificates are renewed when
// less than a third of their life is left, and taken up without a restart.
//
// Who gets a certificate is left to the caller. There is no revocation:
// lifetimes are short, and a role or name can be refused by whoever is asked.
package pki

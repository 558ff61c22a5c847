package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Role is what a part of an install is.
type Role string

// The roles.
const (
	Hub       Role = "hub"
	Collector Role = "collector"
	Edge      Role = "edge"
	Envoy     Role = "envoy"
	Operator  Role = "operator" // a person or a pipeline, by the command line
)

// Roles lists the roles.
var Roles = []Role{Hub, Collector, Edge, Envoy, Operator}

// serves reports whether others connect to the role.
func (r Role) serves() bool { return r == Hub || r == Edge }

// serverName is the DNS name that every certificate of a serving role carries,
// so that a client need not know the addresses that it is reached by.
func (r Role) serverName() string { return string(r) + ".chancery" }

// Identity is who a certificate belongs to.
type Identity struct {
	Install string // the install's id
	Role    Role
	Name    string // unique within install and role
}

const scheme = "chancery"

// String returns the identity as the URI that certificates carry.
func (i Identity) String() string {
	return scheme + "://" + i.Install + "/" + string(i.Role) + "/" + i.Name
}

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9]([-_.a-z0-9]{0,251}[a-z0-9])?$`)
	installPattern = regexp.MustCompile(`^[a-z0-9]{8,64}$`)
)

func (i Identity) validate() error {
	switch {
	case !installPattern.MatchString(i.Install):
		return fmt.Errorf("install id %q is not 8 to 64 of a-z and 0-9", i.Install)
	case !slices.Contains(Roles, i.Role):
		return fmt.Errorf("there is no role %q; it is one of %v", i.Role, Roles)
	case !namePattern.MatchString(i.Name):
		return fmt.Errorf("name %q is not 1 to 253 of a-z, 0-9, '-', '_' and '.', with a letter or digit at both ends", i.Name)
	}
	return nil
}

// ErrIdentity says that a certificate does not identify a part of an install,
// or not one that is wanted.
var ErrIdentity = errors.New("not an accepted identity")

// IdentityOf returns who a certificate belongs to. It does not check who
// signed it.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	var found []*url.URL
	for _, u := range cert.URIs {
		if u.Scheme == scheme {
			found = append(found, u)
		}
	}
	if len(found) != 1 {
		return Identity{}, fmt.Errorf("%w: the certificate has %d URIs %s://…, not one", ErrIdentity, len(found), scheme)
	}
	role, name, ok := strings.Cut(strings.TrimPrefix(found[0].Path, "/"), "/")
	id := Identity{Install: found[0].Host, Role: Role(role), Name: name}
	if err := id.validate(); !ok || err != nil || id.String() != found[0].String() {
		return Identity{}, fmt.Errorf("%w: %q", ErrIdentity, found[0])
	}
	return id, nil
}

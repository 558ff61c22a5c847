package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Seq is an event's position in the ledger, the only global order. The first
// event has seq 1; 0 means "before everything".
type Seq uint64

// ClusterName names a site: a Kubernetes cluster or a directory. It is a DNS
// label of 1 to 63 characters.
type ClusterName string

// Validate reports whether the name can be used in subjects and identities.
func (c ClusterName) Validate() error {
	if !isLabel(string(c)) {
		return fmt.Errorf("cluster name %q: use 1 to 63 lower-case letters, digits and inner hyphens", string(c))
	}
	return nil
}

// FleetName names a fleet: Envoys that share configuration. It is a DNS label
// of 1 to 63 characters.
type FleetName string

// Validate reports whether the name can be used in subjects and identities.
func (f FleetName) Validate() error {
	if !isLabel(string(f)) {
		return fmt.Errorf("fleet name %q: use 1 to 63 lower-case letters, digits and inner hyphens", string(f))
	}
	return nil
}

func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// Digest is the SHA-256 of some content.
type Digest [sha256.Size]byte

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest { return sha256.Sum256(b) }

// IsZero reports whether d was never set.
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns the digest as "sha256:" and 64 hexadecimal digits, or "" for
// the zero digest.
func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return "sha256:" + hex.EncodeToString(d[:])
}

// Short returns the first 12 hexadecimal digits, for people.
func (d Digest) Short() string { return hex.EncodeToString(d[:6]) }

// MarshalText writes the form of String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the form of String.
func (d *Digest) UnmarshalText(b []byte) error {
	p, err := ParseDigest(string(b))
	if err != nil {
		return err
	}
	*d = p
	return nil
}

// ParseDigest reads the form that Digest.String writes.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if s == "" {
		return d, nil
	}
	h, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(h) != 2*len(d) {
		return d, fmt.Errorf("digest %q: want sha256: and %d hexadecimal digits", s, 2*len(d))
	}
	if _, err := hex.Decode(d[:], []byte(h)); err != nil {
		return d, fmt.Errorf("digest %q: %w", s, err)
	}
	return d, nil
}

// ObjectKey is an object's identity: where it comes from and what it is called
// there. The API version is not part of it.
type ObjectKey struct {
	Cluster   ClusterName
	Group     string // "" for the core group
	Kind      string
	Namespace string // "" for cluster-scoped objects
	Name      string
}

// String returns "cluster:kind.group/namespace/name", with "_" for what is
// empty: "east:Mapping.getambassador.io/default/web".
func (k ObjectKey) String() string {
	kind := k.Kind
	if k.Group != "" {
		kind += "." + k.Group
	}
	return string(k.Cluster) + ":" + kind + "/" + orBlank(k.Namespace) + "/" + k.Name
}

// MarshalText writes the form of String, so that an ObjectKey can be the key
// of a JSON object.
func (k ObjectKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the form of String.
func (k *ObjectKey) UnmarshalText(b []byte) error {
	p, err := ParseObjectKey(string(b))
	if err != nil {
		return err
	}
	*k = p
	return nil
}

// ParseObjectKey reads the form that ObjectKey.String writes.
func ParseObjectKey(s string) (ObjectKey, error) {
	bad := func() (ObjectKey, error) {
		return ObjectKey{}, fmt.Errorf("object %q: want cluster:Kind.group/namespace/name", s)
	}
	cluster, rest, ok := strings.Cut(s, ":")
	if !ok || cluster == "" {
		return bad()
	}
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return bad()
	}
	kind, group, _ := strings.Cut(parts[0], ".")
	if kind == "" {
		return bad()
	}
	ns := parts[1]
	if ns == "_" {
		ns = ""
	}
	return ObjectKey{Cluster: ClusterName(cluster), Group: group, Kind: kind, Namespace: ns, Name: parts[2]}, nil
}

// Compare orders keys by cluster, group, kind, namespace and name.
func (k ObjectKey) Compare(o ObjectKey) int {
	for _, c := range [...]int{
		strings.Compare(string(k.Cluster), string(o.Cluster)),
		strings.Compare(k.Group, o.Group),
		strings.Compare(k.Kind, o.Kind),
		strings.Compare(k.Namespace, o.Namespace),
	} {
		if c != 0 {
			return c
		}
	}
	return strings.Compare(k.Name, o.Name)
}

func orBlank(s string) string {
	if s == "" {
		return "_"
	}
	return s
}

// Subjects of the stream. Every token but the fixed ones is percent-encoded.
const (
	subjectEvent    = "chancery.event."
	subjectSync     = "chancery.sync."
	subjectDecision = "chancery.decision."
	// InstallScope is the scope of decisions that concern the whole install.
	InstallScope = "_install"
)

// StreamSubjects are the subjects that the stream CHANCERY captures.
var StreamSubjects = []string{subjectEvent + ">", subjectSync + "*", subjectDecision + "*"}

// Subject returns the stream subject of events about the object.
func (k ObjectKey) Subject() string {
	return subjectEvent + strings.Join([]string{
		token(string(k.Cluster)), token(k.Group), token(k.Kind), token(k.Namespace), token(k.Name),
	}, ".")
}

// SyncSubject returns the stream subject of a cluster's sync events.
func SyncSubject(c ClusterName) string { return subjectSync + token(string(c)) }

// DecisionSubject returns the stream subject of decisions on a fleet, or on the
// whole install for InstallScope.
func DecisionSubject(scope string) string {
	if scope == InstallScope {
		return subjectDecision + InstallScope
	}
	return subjectDecision + token(scope)
}

// token percent-encodes one subject token; an empty one becomes "_".
func token(s string) string {
	if s == "" {
		return "_"
	}
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteString(strings.ToUpper(strconv.FormatUint(uint64(c)+0x100, 16)[1:]))
	}
	return b.String()
}

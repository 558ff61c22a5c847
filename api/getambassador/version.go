package getambassador

import (
	"fmt"
	"strings"
)

// CanonicalVersion maps an apiVersion to how this package reads it: the canonical
// apiVersion (getambassador.io/v1, /v2 or /v3alpha1), or an error that wraps
// [ErrNotOurs]. It accepts the older spellings ambassador/vN and
// x.getambassador.io/v3alpha1.
func CanonicalVersion(apiVersion string) (string, error) {
	group, version, _ := strings.Cut(apiVersion, "/")
	switch group {
	case Group, "ambassador":
	case "x." + Group:
		if version != "v3alpha1" {
			return "", fmt.Errorf("apiVersion %q: %w: x.%s has only v3alpha1", shorten(apiVersion), ErrNotOurs, Group)
		}
	default:
		return "", fmt.Errorf("apiVersion %q: %w", shorten(apiVersion), ErrNotOurs)
	}
	switch version {
	case "v1", "v2", "v3alpha1":
		return Group + "/" + version, nil
	}
	return "", fmt.Errorf("apiVersion %q: %w: the versions are v1, v2 and v3alpha1", shorten(apiVersion), ErrNotOurs)
}

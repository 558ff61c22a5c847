package collector

import (
	"strings"

	"github.com/chancery-dev/chancery/ledger"
)

// actorOf says who last changed an object, from what its metadata tells. A field manager that is a GitOps
// controller stands for the application it syncs, so that is named instead; a manager is never shown as a person.
func actorOf(obj map[string]any) ledger.Actor {
	meta, _ := obj["metadata"].(map[string]any)
	app := gitopsName(meta)
	manager := lastManager(meta)
	switch {
	case app != "" && (manager == "" || isGitopsManager(manager)):
		return ledger.Actor{Name: app, Source: "gitops"}
	case manager != "":
		return ledger.Actor{Name: manager, Source: "managed-fields"}
	}
	return ledger.Actor{}
}

func isGitopsManager(manager string) bool {
	switch manager {
	case "argocd-controller", "argocd-application-controller", "kustomize-controller", "helm-controller", "helm":
		return true
	}
	return false
}

func gitopsName(meta map[string]any) string {
	annotations, _ := meta["annotations"].(map[string]any)
	labels, _ := meta["labels"].(map[string]any)
	get := func(key string) string {
		if s, ok := annotations[key].(string); ok {
			return s
		}
		s, _ := labels[key].(string)
		return s
	}
	if id := get("argocd.argoproj.io/tracking-id"); id != "" {
		app, _, _ := strings.Cut(id, ":")
		return bounded("argocd/" + app)
	}
	if name := get("kustomize.toolkit.fluxcd.io/name"); name != "" {
		return bounded("flux/" + qualified(get("kustomize.toolkit.fluxcd.io/namespace"), name))
	}
	if name := get("meta.helm.sh/release-name"); name != "" {
		return bounded("helm/" + qualified(get("meta.helm.sh/release-namespace"), name))
	}
	return ""
}

// lastManager returns the manager of the newest managedFields entry that is not about status.
func lastManager(meta map[string]any) string {
	fields, _ := meta["managedFields"].([]any)
	var newest, manager string
	for _, f := range fields {
		entry, _ := f.(map[string]any)
		if sub, _ := entry["subresource"].(string); sub == "status" {
			continue
		}
		at, _ := entry["time"].(string) // RFC 3339 in UTC: sorts as text
		if name, _ := entry["manager"].(string); name != "" && at >= newest {
			newest, manager = at, name
		}
	}
	return bounded(manager)
}

// bounded cuts what comes from a user's metadata to a length that is fit for an attribute, without control
// characters.
func bounded(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "")
	}
	return s
}

package getambassador

import "slices"

// DefaultAmbassadorID is the id of an installation, and of an object, that
// names none.
const DefaultAmbassadorID = "default"

// anyAmbassadorID, as an object's only id, means every installation.
const anyAmbassadorID = "_automatic_"

// ServedBy says whether an object with these ambassador_id values is meant for
// the installation with this id. No values mean ["default"], and an empty id
// means "default". The single value "_automatic_" means every installation;
// beside others it is an id like any other, which is what both halves of
// Emissary agree on.
func ServedBy(ambassadorIDs []string, id string) bool {
	if id == "" {
		id = DefaultAmbassadorID
	}
	if len(ambassadorIDs) == 0 {
		return id == DefaultAmbassadorID
	}
	if len(ambassadorIDs) == 1 && ambassadorIDs[0] == anyAmbassadorID {
		return true
	}
	return slices.Contains(ambassadorIDs, id)
}

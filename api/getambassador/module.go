package getambassador

// Module holds settings of the whole installation. Its name says which: only
// "ambassador" and the legacy "tls" mean anything.
type Module struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       ModuleSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *Module) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// ModuleSpec is what a [Module] asks for. The published schema does not type
// Config; its values are nil, bool, string, int64, float64, []any and
// map[string]any.
type ModuleSpec struct {
	AmbassadorID AmbassadorID   `json:"ambassador_id,omitzero"`
	Config       map[string]any `json:"config" check:"required-v3"`
}

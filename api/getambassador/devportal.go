package getambassador

// DevPortal is accepted and kept, and has no effect.
type DevPortal struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       DevPortalSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *DevPortal) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// DevPortalSpec is what a [DevPortal] would show, and how.
type DevPortalSpec struct {
	AmbassadorID    AmbassadorID       `json:"ambassador_id,omitzero"`
	Default         *bool              `json:"default,omitzero"`
	Content         *DevPortalContent  `json:"content,omitzero"`
	Docs            []DevPortalDocs    `json:"docs,omitzero"`
	NamingScheme    string             `json:"naming_scheme,omitzero" check:"enum=namespace.name|name.prefix"`
	PreserveServers *bool              `json:"preserve_servers,omitzero"`
	Search          *DevPortalSearch   `json:"search,omitzero"`
	Selector        *DevPortalSelector `json:"selector,omitzero"`
}

// DevPortalContent names the Git repository of the portal's pages.
type DevPortalContent struct {
	URL    string `json:"url,omitzero"`
	Branch string `json:"branch,omitzero"`
	Dir    string `json:"dir,omitzero"`
}

// DevPortalDocs names one service's documentation.
type DevPortalDocs struct {
	Service   string `json:"service,omitzero"`
	URL       string `json:"url,omitzero"`
	TimeoutMs *int   `json:"timeout_ms,omitzero"`
}

// DevPortalSearch configures the portal's search.
type DevPortalSearch struct {
	Enabled *bool  `json:"enabled,omitzero"`
	Type    string `json:"type,omitzero" check:"enum=title-only|all-content"`
}

// DevPortalSelector chooses the Mappings that the portal shows.
type DevPortalSelector struct {
	MatchLabels     map[string]string `json:"matchLabels,omitzero"`
	MatchNamespaces []string          `json:"matchNamespaces,omitzero"`
}

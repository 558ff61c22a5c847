package ledger

import (
	"encoding/json"
	"fmt"
)

// Decision is the data of a decision event. Authority is in the record itself:
// a fold ignores a decision whose term is not the newest claimed or whose
// previous digest is not that of the last decision it accepted on the scope.
type Decision struct {
	Term     uint64 `json:"term"`
	Previous Digest `json:"previous,omitzero"` // digest of the event bytes of the previous decision on this scope
	Basis    Seq    `json:"basis"`             // what the decision-maker had folded
	// Reason is what the operator gave as reason, if one did.
	Reason string          `json:"reason,omitempty"`
	Body   json.RawMessage `json:"body"`
}

// DecodeDecision reads a decision event's data.
func DecodeDecision(data []byte) (Decision, error) {
	var d Decision
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("decision: %w", err)
	}
	return d, nil
}

// decodeBody reads the body of a decision event's data into v.
func decodeBody(data []byte, v any) error {
	d, err := DecodeDecision(data)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(d.Body, v); err != nil {
		return fmt.Errorf("decision body: %w", err)
	}
	return nil
}

// TermBegunData claims a term: the first in ledger order with Term = last + 1
// has it.
type TermBegunData struct {
	Term     uint64 `json:"term"`
	Instance string `json:"instance"`
	// Previous is the digest of the event bytes of the previous TermBegun.
	Previous Digest `json:"previous,omitzero"`
}

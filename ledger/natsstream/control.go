package natsstream

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/chancery-dev/chancery/ledger"
)

// MaxControlBytes bounds a control message.
const MaxControlBytes = 4 << 10

// Control is a message from the hub to the collector of one cluster. Exactly
// one field is set. It travels over core NATS and may be lost or repeated: the
// hub says it again, and acting on it twice changes nothing.
type Control struct {
	Trim   *Trim   `json:"trim,omitempty"`
	Resend *Resend `json:"resend,omitempty"`
	Claim  *Claim  `json:"claim,omitempty"`
}

// Trim says that a quorum of ledger replicas has recorded every event of the
// epoch up to and including N, and all that will ever be recorded of older
// epochs. A Trim with the collector's own instance also tells it that its claim
// of the epoch was the first.
type Trim struct {
	Epoch    uint64 `json:"epoch"`
	Instance string `json:"instance"`
	N        uint64 `json:"n"`
}

// Resend asks for the events of the epoch from N on once more, in order, with
// fresh message ids. A collector that has begun a newer epoch since publishes
// that one's from its claim on.
type Resend struct {
	Epoch    uint64 `json:"epoch"`
	Instance string `json:"instance"`
	N        uint64 `json:"n"`
}

// Claim asks the collector to claim the given epoch: its claim is not recorded,
// was of an epoch that another has, or of one that does not follow the recorded
// one. A collector that has claimed just this epoch publishes it again from the
// claim on.
type Claim struct {
	Epoch uint64 `json:"epoch"`
}

// ErrControl says that bytes are not a control message.
var ErrControl = errors.New("malformed control message")

// ControlSubject returns the subject of the control messages of a cluster. Only
// the hub may publish on it and only the cluster's collector subscribe.
func ControlSubject(c ledger.ClusterName) string { return "chancery.to." + string(c) + ".control" }

// Encode returns the message's JSON.
func (c Control) Encode() ([]byte, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode control message: %w", err)
	}
	return b, nil
}

// DecodeControl reads what Encode wrote. Unknown fields are ignored, so that a
// newer hub can say more.
func DecodeControl(b []byte) (Control, error) {
	var c Control
	if len(b) > MaxControlBytes {
		return c, fmt.Errorf("%w: %d bytes, at most %d", ErrControl, len(b), MaxControlBytes)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return Control{}, fmt.Errorf("%w: %w", ErrControl, err)
	}
	return c, c.validate()
}

func (c Control) validate() error {
	set := 0
	for _, is := range [...]bool{c.Trim != nil, c.Resend != nil, c.Claim != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("%w: %d of trim, resend and claim are set, want one", ErrControl, set)
	}
	return nil
}

// SendControl publishes a control message for the collector of a cluster. It
// does not wait; nobody may be listening.
func SendControl(nc *nats.Conn, cluster ledger.ClusterName, c Control) error {
	b, err := c.Encode()
	if err != nil {
		return err
	}
	if err := nc.Publish(ControlSubject(cluster), b); err != nil {
		return fmt.Errorf("control message for %s: %w", cluster, err)
	}
	return nil
}

// SubscribeControl calls handle for every control message to the cluster, one
// at a time, until the subscription is ended. What cannot be read goes to bad,
// which may be nil.
func SubscribeControl(nc *nats.Conn, cluster ledger.ClusterName, handle func(Control), bad func(error)) (*nats.Subscription, error) {
	sub, err := nc.Subscribe(ControlSubject(cluster), func(m *nats.Msg) {
		c, err := DecodeControl(m.Data)
		switch {
		case err == nil:
			handle(c)
		case bad != nil:
			bad(err)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to control messages of %s: %w", cluster, err)
	}
	return sub, nil
}

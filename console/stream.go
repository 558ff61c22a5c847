package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// sender sends one server-sent event; without a name it is a sign of life.
type sender func(name, id string, data any) error

// stream answers with server-sent events until run returns. An error of run is
// sent as an event "error", a problem.
func stream(run func(context.Context, sender) error) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(c huma.Context) {
		_, w := humago.Unwrap(c)
		control := http.NewResponseController(w)
		send := func(name, id string, data any) error {
			_ = control.SetWriteDeadline(time.Now().Add(writeLimit)) // where the server can
			text := ": still here\n\n"
			if name != "" {
				b, err := json.Marshal(data)
				if err != nil {
					return err
				}
				text = fmt.Sprintf("event: %s\ndata: %s\n\n", name, b)
				if id != "" {
					text = "id: " + id + "\n" + text
				}
			}
			if _, err := w.Write([]byte(text)); err != nil {
				return err
			}
			return control.Flush()
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		_ = control.SetReadDeadline(time.Time{}) // the request has been read
		if send("", "", nil) != nil {
			return
		}
		if err := run(c.Context(), send); err != nil && c.Context().Err() == nil {
			_ = send("error", "", huma.ErrorModel{Title: "Interrupted", Status: http.StatusInternalServerError, Detail: err.Error()}) // the client may be gone
		}
	}}
}

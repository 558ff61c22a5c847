package natsstream

import (
	"fmt"
	"log/slog"
	"sync"
)

// logger passes what the embedded server reports to slog and keeps the last
// error, for a start that does not come about.
type logger struct {
	log *slog.Logger
	// broken is told when a store takes no more writes.
	broken chan<- struct{}

	mu      sync.Mutex
	lastErr string // guarded by mu
	fatal   bool   // guarded by mu; the server would have ended the process
}

func (l *logger) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lastErr == "" {
		return "it says nothing"
	}
	return l.lastErr
}

func (l *logger) isFatal() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

func (l *logger) failed(fatal bool, format string, v []any) {
	text := fmt.Sprintf(format, v...)
	l.mu.Lock()
	l.lastErr, l.fatal = text, l.fatal || fatal
	l.mu.Unlock()
	l.log.Error("nats server error", slog.String("text", text))
	if saysBroken(text) {
		select {
		case l.broken <- struct{}{}:
		default: // it knows
		}
	}
}

// Noticef drops notices: what the server does at its start is no news.
func (l *logger) Noticef(string, ...any) {}

// Warnf reports a warning.
func (l *logger) Warnf(format string, v ...any) {
	l.log.Warn("nats server warning", slog.String("text", fmt.Sprintf(format, v...)))
}

// Fatalf reports an error; unlike the server's own logger it does not exit.
func (l *logger) Fatalf(format string, v ...any) { l.failed(true, format, v) }

// Errorf reports an error.
func (l *logger) Errorf(format string, v ...any) { l.failed(false, format, v) }

// Debugf drops debugging.
func (l *logger) Debugf(string, ...any) {}

// Tracef drops traces.
func (l *logger) Tracef(string, ...any) {}

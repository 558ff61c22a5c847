package natsstream

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A stream of nats-server that could not write once, because the disk was full,
// refuses every write from then on, also when there is room again (its store
// keeps the error, filestore.go: werr). Closing and opening the stores is the
// way out; clients stay connected.

const (
	// healPeriod is how often a server that cannot write looks for room.
	healPeriod = time.Second
	// healBytes must fit on the disk before the stores are opened again.
	healBytes = 4 << 20
)

// brokenWrite is what the server reports of a store that takes no more writes.
const brokenWrite = "critical write error"

// heal opens the stores again after a write failed and there is room. It returns
// when stop is closed.
func (s *Server) heal(storeDir string, broken, stop <-chan struct{}, log *slog.Logger) {
	for {
		select {
		case <-broken:
		case <-stop:
			return
		}
		log.Error("nats store takes no writes; it is opened again when there is room", slog.String("store", storeDir), slog.Int("bytes_wanted", healBytes))
		for healed := false; !healed; {
			wait := time.NewTimer(healPeriod)
			select {
			case <-wait.C:
			case <-stop:
				wait.Stop()
				return
			}
			if room(storeDir) != nil {
				continue
			}
			err := s.reopen(storeDir)
			if healed = err == nil; !healed {
				log.Error("nats store cannot be opened again yet", slog.String("store", storeDir), slog.Any("err", err))
			}
		}
		select {
		case <-broken: // said before it was healed
		default:
		}
		log.Info("nats store takes writes again", slog.String("store", storeDir))
	}
}

// room says why a few megabytes cannot be written to a directory.
func room(dir string) error {
	path := filepath.Join(dir, ".room")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }() // it holds nothing
	block := make([]byte, 1<<20)
	for range healBytes / len(block) {
		if _, err := f.Write(block); err != nil {
			_ = f.Close() // the first error counts
			return err
		}
	}
	if err := f.Sync(); err != nil {
		_ = f.Close() // the first error counts
		return err
	}
	return f.Close()
}

// reopen closes the stores and opens them again.
func (s *Server) reopen(storeDir string) error {
	if cfg := s.ns.JetStreamConfig(); cfg != nil {
		s.config = *cfg
		s.config.StoreDir = storeDir // EnableJetStream appends to it
	}
	if err := s.ns.ShutdownJetStream(); err != nil {
		return fmt.Errorf("close nats store: %w", err)
	}
	cfg := s.config
	if err := s.ns.EnableJetStream(&cfg); err != nil {
		return fmt.Errorf("open nats store: %w", err)
	}
	return nil
}

// saysBroken reports whether the server means that a store takes no more
// writes.
func saysBroken(text string) bool { return strings.Contains(strings.ToLower(text), brokenWrite) }

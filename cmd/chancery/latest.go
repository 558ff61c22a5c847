package main

import "sync"

// latest holds one value that goroutines share.
type latest[T any] struct {
	mu    sync.Mutex
	value T // guarded by mu
}

func newLatest[T any](v T) *latest[T] { return &latest[T]{value: v} }

func (l *latest[T]) get() T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.value
}

func (l *latest[T]) set(v T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.value = v
}

package processors

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// CacheConfig bounds what is remembered of a lookup, in wall time.
type CacheConfig struct {
	// Entries bounds how many keys are remembered; the ones not asked for longest go. Default 10,000.
	Entries int
	// TTL is how long a value is taken for true; default 1 minute.
	TTL time.Duration
	// MissingTTL is how long it is taken for true that a key has no value; default TTL; negative: not at all.
	MissingTTL time.Duration
	// StaleFor is how much longer an answer may be used when asking again fails; default 0: not at all.
	StaleFor time.Duration
	// Now is the wall clock; default time.Now.
	Now func() time.Time
}

func (c CacheConfig) withDefaults() CacheConfig {
	if c.Entries <= 0 {
		c.Entries = 10_000
	}
	if c.TTL <= 0 {
		c.TTL = time.Minute
	}
	if c.MissingTTL == 0 {
		c.MissingTTL = c.TTL
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Cached remembers the answers of a lookup, among them that a key has no value; errors are not remembered. Callers
// that ask for one key at the same time share one call. Put it around Guard, not inside:
//
//	rates := processors.Cached(processors.Guard(service, processors.GuardConfig{}), processors.CacheConfig{StaleFor: time.Hour})
//
// A hit costs a lock and a map access. It may be shared by steps and pipelines.
func Cached[K comparable, V any](lookup Lookup[K, V], config CacheConfig) Lookup[K, V] {
	return &cache[K, V]{
		lookup: lookup, config: config.withDefaults(),
		entries: map[K]*list.Element{}, recent: list.New(), calls: map[K]*call[V]{},
	}
}

type cache[K comparable, V any] struct {
	lookup Lookup[K, V]
	config CacheConfig

	lock    sync.Mutex
	entries map[K]*list.Element // of *entry, most recently used first in recent
	recent  *list.List
	calls   map[K]*call[V]
}

type entry[K comparable, V any] struct {
	key K
	answer[V]
	until time.Time
}

// call is a lookup on its way. What it brought is set before done is closed.
type call[V any] struct {
	done chan struct{}
	answer[V]
	err error
}

// errAbandoned is what a call brings whose lookup panicked.
var errAbandoned = errors.New("the call was abandoned")

func (c *cache[K, V]) Lookup(ctx context.Context, key K) (V, bool, error) {
	for {
		a, ours, running := c.begin(key)
		switch {
		case running == nil:
			return a.value, a.found, nil
		case ours:
			return c.run(ctx, key, running)
		}
		select {
		case <-running.done:
		case <-ctx.Done():
			var none V
			return none, false, ctx.Err()
		}
		if errors.Is(running.err, context.Canceled) && ctx.Err() == nil || errors.Is(running.err, errAbandoned) {
			continue // that was the other caller's end, not ours: ask ourselves
		}
		return running.value, running.found, running.err
	}
}

// begin returns an answer that holds, or the call that will bring one, and whether the caller has to make it.
func (c *cache[K, V]) begin(key K) (a answer[V], ours bool, running *call[V]) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if e, ok := c.get(key); ok && c.config.Now().Before(e.until) {
		return e.answer, false, nil
	}
	if running = c.calls[key]; running != nil {
		return a, false, running
	}
	running = &call[V]{done: make(chan struct{}), err: errAbandoned}
	c.calls[key] = running
	return a, true, running
}

// run makes the call and shares what it brings.
func (c *cache[K, V]) run(ctx context.Context, key K, running *call[V]) (V, bool, error) {
	defer func() { // also when the lookup panics
		c.lock.Lock()
		delete(c.calls, key)
		c.lock.Unlock()
		close(running.done)
	}()
	v, found, err := c.lookup.Lookup(ctx, key)
	c.lock.Lock()
	defer c.lock.Unlock()
	if err != nil {
		if e, ok := c.get(key); ok && c.config.Now().Before(e.until.Add(c.config.StaleFor)) {
			running.answer, running.err = e.answer, nil
			return e.value, e.found, nil
		}
		running.err = err
		return v, false, err
	}
	running.answer, running.err = answer[V]{v, found}, nil
	c.keep(key, running.answer)
	return v, found, nil
}

func (c *cache[K, V]) get(key K) (*entry[K, V], bool) {
	at, ok := c.entries[key]
	if !ok {
		return nil, false
	}
	c.recent.MoveToFront(at)
	return at.Value.(*entry[K, V]), true
}

func (c *cache[K, V]) keep(key K, a answer[V]) {
	ttl := c.config.TTL
	if !a.found {
		ttl = c.config.MissingTTL
	}
	if old, ok := c.entries[key]; ok {
		c.recent.Remove(old)
		delete(c.entries, key)
	}
	if ttl < 0 {
		return
	}
	c.entries[key] = c.recent.PushFront(&entry[K, V]{key, a, c.config.Now().Add(ttl)})
	for len(c.entries) > c.config.Entries {
		last := c.recent.Back()
		c.recent.Remove(last)
		delete(c.entries, last.Value.(*entry[K, V]).key)
	}
}

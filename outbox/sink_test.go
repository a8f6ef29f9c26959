package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/outbox"
)

// sink is a publisher that keeps what it takes, and fails as a test wants.
type sink struct {
	// fail, when not nil, decides about each call. With a partial some records are taken before the error.
	fail func(ctx context.Context, topic string, records []framework.Record) error

	lock    sync.Mutex
	all     []framework.Record // in the order of arrival
	topics  []string
	busy    map[string]bool
	overlap bool
	calls   int
	changed chan struct{}
}

func newSink() *sink { return &sink{busy: map[string]bool{}, changed: make(chan struct{})} }

func (s *sink) Publish(ctx context.Context, topic string, records []framework.Record) error {
	s.lock.Lock()
	s.overlap = s.overlap || s.busy[topic]
	s.busy[topic] = true
	fail := s.fail
	s.lock.Unlock()
	var err error
	if fail != nil {
		err = fail(ctx, topic, records)
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	s.busy[topic] = false
	s.calls++
	taken := len(records)
	var part partial
	if errors.As(err, &part) {
		taken = part.taken
	} else if err != nil {
		taken = 0
	}
	if taken > 0 {
		for _, r := range records[:taken] {
			s.all, s.topics = append(s.all, r), append(s.topics, topic)
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return err
}

func (s *sink) Close() error { return nil }

// setFail changes what fails.
func (s *sink) setFail(fail func(context.Context, string, []framework.Record) error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.fail = fail
}

// waitFor waits until cond holds; it is asked after each call of Publish.
func (s *sink) waitFor(t testing.TB, what string, cond func(all []framework.Record) bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		s.lock.Lock()
		ok, changed := cond(s.all), s.changed
		n := len(s.all)
		s.lock.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not seen in time: %s; %d records came", what, n)
		}
	}
}

// distinct is the records without those that came before.
func (s *sink) distinct() (first []framework.Record, duplicates int) {
	s.lock.Lock()
	defer s.lock.Unlock()
	return distinct(s.all)
}

func distinct(all []framework.Record) (first []framework.Record, duplicates int) {
	seen := map[string]bool{}
	for _, r := range all {
		if seen[r.ID] {
			duplicates++
			continue
		}
		seen[r.ID] = true
		first = append(first, r)
	}
	return first, duplicates
}

func (s *sink) waitForDistinct(t testing.TB, n int) {
	t.Helper()
	s.waitFor(t, fmt.Sprint(n, " different events"), func(all []framework.Record) bool {
		if len(all) < n {
			return false
		}
		first, _ := distinct(all)
		return len(first) >= n
	})
}

// oracle knows what was committed, per key in the order of the commits, and compares it with what arrived.
type oracle struct {
	lock      sync.Mutex
	committed map[string][]string // ids by key
	rolled    map[string]bool     // ids that must not arrive
}

func newOracle() *oracle {
	return &oracle{committed: map[string][]string{}, rolled: map[string]bool{}}
}

// commit takes note of events after their COMMIT has returned.
func (o *oracle) commit(records ...framework.Record) {
	o.lock.Lock()
	defer o.lock.Unlock()
	for _, r := range records {
		o.committed[r.Key] = append(o.committed[r.Key], r.ID)
	}
}

func (o *oracle) rollback(records ...framework.Record) {
	o.lock.Lock()
	defer o.lock.Unlock()
	for _, r := range records {
		o.rolled[r.ID] = true
	}
}

func (o *oracle) size() (n int) {
	o.lock.Lock()
	defer o.lock.Unlock()
	for _, ids := range o.committed {
		n += len(ids)
	}
	return n
}

// check compares: nothing lost, first occurrences in order per key, nothing that was rolled back. It returns how many
// came more than once.
func (o *oracle) check(t testing.TB, s *sink) int {
	t.Helper()
	o.lock.Lock()
	defer o.lock.Unlock()
	first, duplicates := s.distinct()
	got := map[string][]string{}
	for _, r := range first {
		if o.rolled[r.ID] {
			t.Errorf("event %s was rolled back and sent", r.ID)
		}
		got[r.Key] = append(got[r.Key], r.ID)
	}
	for _, key := range slices.Sorted(maps.Keys(o.committed)) {
		if !slices.Equal(got[key], o.committed[key]) {
			t.Errorf("key %s: sent %s, committed %s", key, shorten(got[key]), shorten(o.committed[key]))
		}
	}
	if len(got) > len(o.committed) {
		t.Errorf("events of %d keys were sent, of %d committed", len(got), len(o.committed))
	}
	if s.overlap {
		t.Error("two calls for one topic at the same time")
	}
	return duplicates
}

func shorten(ids []string) string {
	if len(ids) > 12 {
		return fmt.Sprint(len(ids), " events, ", ids[:12], "…")
	}
	return fmt.Sprint(len(ids), " events, ", ids)
}

// quick are settings with which a test does not wait for long.
func quick() outbox.RelayConfig {
	return outbox.RelayConfig{
		PollMin: time.Millisecond, PollMax: 20 * time.Millisecond, Settle: 50 * time.Millisecond, FullScan: 200 * time.Millisecond,
		Lease: 2 * time.Second, RetryFirst: 5 * time.Millisecond, RetryMost: 50 * time.Millisecond, ParkedRetry: 100 * time.Millisecond,
	}
}

// start runs a relay until stop is called or the test ends. Run must return nil.
func start(t testing.TB, d database, table *outbox.Table, publisher framework.Publisher, config outbox.RelayConfig) (relay *outbox.Relay, stop func()) {
	t.Helper()
	relay, err := outbox.NewRelay(table, d.DB, publisher, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- relay.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return relay, stop
}

// eventually polls what a database holds; there is no signal for it.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not so within time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// partial is the error of a publisher that has taken the first records of a call.
type partial struct{ taken int }

func (p partial) Error() string { return fmt.Sprint("failed after ", p.taken) }

var errAway = errors.New("the broker is away")

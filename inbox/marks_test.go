package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/inbox"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/outbox"
)

// numbered is a message as the relay of an outbox sends it.
func numbered(key, id string, number int) framework.Record {
	return framework.Record{ID: id, Key: key, Metadata: map[string]string{inbox.MetadataSequence: fmt.Sprintf("%019d", number)}}
}

func (f storeFixture) marks(t testing.TB, producer string) *inbox.Store {
	t.Helper()
	marks, err := inbox.MarksInStore(f.Store, "tests", producer, inbox.MarksConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return marks
}

// consumer is a handler whose effects can be looked at.
type consumer struct {
	HandleBatch func(context.Context, []framework.Record) (inbox.Result, error)
	counts      func() inbox.Counts
	check       func(t *testing.T, ids ...string)
}

// makeConsumer makes the handler of a producer's messages. fail may make it fail after its effect.
type makeConsumer func(t *testing.T, producer string, now func() time.Time, fail func(framework.Record) error) consumer

// onEachMarks runs a test with marks in every database, and in a microstore.
func onEachMarks(t *testing.T, test func(*testing.T, makeConsumer)) {
	onEach(t, func(t *testing.T, f fixture) {
		test(t, func(t *testing.T, producer string, now func() time.Time, fail func(framework.Record) error) consumer {
			h := f.marks(t, producer, now).Handler(f.DB, func(ctx context.Context, tx *sql.Tx, r framework.Record) error {
				return errors.Join(f.effect(ctx, tx, r), fail(r))
			})
			return consumer{h.HandleBatch, h.Counts, f.check}
		})
	})
	t.Run("microstore", func(t *testing.T) {
		f := openStore(t, microstore.Config{InMemory: true})
		test(t, func(t *testing.T, producer string, now func() time.Time, fail func(framework.Record) error) consumer {
			marks, err := inbox.MarksInStore(f.Store, "tests", producer, inbox.MarksConfig{Now: now})
			if err != nil {
				t.Fatal(err)
			}
			h := marks.Handler(func(ctx context.Context, b *microstore.Batch, r framework.Record) error {
				return errors.Join(f.effect(ctx, b, r), fail(r))
			})
			return consumer{h.HandleBatch, h.Counts, func(t *testing.T, ids ...string) { t.Helper(); f.check(t, ids...) }}
		})
	})
}

func (f fixture) marks(t testing.TB, producer string, now func() time.Time) *inbox.Marks {
	t.Helper()
	marks, err := inbox.NewMarks(f.Dialect, "tests", producer, inbox.MarksConfig{Name: f.Name + "_marks", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if err := marks.Create(t.Context(), f.DB); err != nil {
		t.Fatal(err)
	}
	return marks
}

func never(framework.Record) error { return nil }

func TestMarks(t *testing.T) {
	onEachMarks(t, func(t *testing.T, make makeConsumer) {
		failing := true
		c := make(t, "orders", nil, func(r framework.Record) error {
			if failing && r.ID == "a7" {
				return errBad
			}
			return nil
		})
		handle := func(want inbox.Result, all ...framework.Record) inbox.Result {
			t.Helper()
			result, err := c.HandleBatch(t.Context(), all)
			if err != nil || result.Applied != want.Applied || result.Duplicates != want.Duplicates || len(result.Failed) != len(want.Failed) {
				t.Fatalf("%+v, %v; expected %+v", result, err, want)
			}
			for i, f := range want.Failed {
				if got := result.Failed[i]; got.Index != f.Index || got.ID != all[f.Index].ID || !errors.Is(got.Err, f.Err) {
					t.Errorf("failed: %+v, expected %+v", got, f)
				}
			}
			return result
		}
		// Numbers have gaps, and keys and sources have each their own.
		other := numbered("a", "other source", 2)
		other.Source = "elsewhere"
		third := numbered("a", "third source", 1)
		third.Source = "elsewhat."
		handle(inbox.Result{Applied: 5, Duplicates: 2}, numbered("a", "a3", 3), numbered("a", "a5", 5), numbered("a", "a3", 3),
			numbered("b", "b4", 4), other, third, numbered("b", "b4", 4))
		// Behind a message that fails its key waits, and no other.
		batch := []framework.Record{numbered("a", "a5", 5), numbered("a", "a7", 7), numbered("b", "b6", 6), numbered("a", "a8", 8), numbered("a", "a5", 5)}
		handle(inbox.Result{Applied: 1, Duplicates: 1, Failed: []inbox.Failure{{Index: 1, Err: errBad}, {Index: 3, Err: inbox.ErrEarlier}, {Index: 4, Err: inbox.ErrEarlier}}}, batch...)
		c.check(t, "a3", "a5", "b4", "b6", "other source", "third source")
		failing = false
		handle(inbox.Result{Applied: 2, Duplicates: 3}, batch...)
		handle(inbox.Result{Duplicates: 5}, batch...)
		// What cannot be told apart is refused, and holds up its key too.
		bad := framework.Record{ID: "no number", Key: "c"}
		huge := numbered(strings.Repeat("k", 1025), "huge", 1)
		worse := numbered("c", "text", 1)
		worse.Metadata = map[string]string{inbox.MetadataSequence: "12a"}
		handle(inbox.Result{Applied: 1, Failed: []inbox.Failure{{Index: 0, Err: inbox.ErrNoSequence}, {Index: 1, Err: inbox.ErrEarlier}, {Index: 2, Err: inbox.ErrNoSequence},
			{Index: 3, Err: inbox.ErrNoSequence}, {Index: 4, Err: inbox.ErrNoSequence}}},
			bad, numbered("c", "c1", 1), numbered("", "no key", 1), huge, worse, numbered("d", "d0", 0))
		c.check(t, "a3", "a5", "a7", "a8", "b4", "b6", "d0", "other source", "third source")
		if got := c.counts(); got != (inbox.Counts{Applied: 9, Duplicates: 11, Refused: 7, Failed: 1}) {
			t.Errorf("counts %+v", got)
		}
		another := make(t, "payments", nil, never) // its numbers are its own
		if result, err := another.HandleBatch(t.Context(), []framework.Record{numbered("a", "payment", 1)}); err != nil || result.Applied != 1 {
			t.Errorf("%+v, %v", result, err)
		}
	})
}

// When a table was made anew, the producer's numbers are low again: its messages are not taken for duplicates without
// a word.
func TestNumbersBegunAnew(t *testing.T) {
	onEachMarks(t, func(t *testing.T, make makeConsumer) {
		now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
		clock := func() time.Time { return now }
		c := make(t, "orders", clock, never)
		at := func(id string, number int, when time.Time) framework.Record {
			r := numbered("a", id, number)
			r.Time = when
			return r
		}
		for _, test := range []struct {
			name string
			r    framework.Record
			want error
			dup  bool
		}{
			{"new", at("x100", 100, now), nil, false},
			{"again", at("x100", 100, now), nil, true},
			{"an earlier one again", at("x90", 90, now.Add(-time.Minute)), nil, true},
			{"an earlier one, by a clock that is ahead", at("x91", 91, now.Add(59*time.Minute)), nil, true},
			{"an earlier one without a time", numbered("a", "x92", 92), nil, true},
			{"the same number of another message", at("y100", 100, now), inbox.ErrRestarted, false},
			{"a low number made after the mark", at("y1", 1, now.Add(61*time.Minute)), inbox.ErrRestarted, false},
		} {
			result, err := c.HandleBatch(t.Context(), []framework.Record{test.r})
			if err != nil || (result.Duplicates == 1) != test.dup || (len(result.Failed) == 1) != (test.want != nil) {
				t.Errorf("%s: %+v, %v", test.name, result, err)
			}
			if test.want != nil && len(result.Failed) == 1 && !errors.Is(result.Failed[0].Err, test.want) {
				t.Errorf("%s: %v", test.name, result.Failed[0].Err)
			}
		}
		// The rest of the key waits, and what was before the restart still goes on; under another name all does.
		anew := []framework.Record{at("y1", 1, now.Add(2*time.Hour)), at("y200", 200, now.Add(2*time.Hour))}
		if result, err := c.HandleBatch(t.Context(), anew); err != nil || len(result.Failed) != 2 {
			t.Errorf("%+v, %v", result, err)
		}
		if result, err := c.HandleBatch(t.Context(), []framework.Record{at("x150", 150, now)}); err != nil || result.Applied != 1 {
			t.Errorf("%+v, %v", result, err)
		}
		if result, err := make(t, "orders 2", clock, never).HandleBatch(t.Context(), anew); err != nil || result.Applied != 2 {
			t.Errorf("%+v, %v", result, err)
		}
		c.check(t, "x100", "x150", "y1", "y200")
	})
}

// Whatever is delivered again and whatever fails, each message is handled once, and a key's in order. A broker delivers
// from any place at or before the first message that is not acknowledged.
func TestMarksModel(t *testing.T) {
	f := makeFixture(t, sqltest.SQLite(t), inbox.Config{})
	if _, err := f.Exec("CREATE TABLE handled (n INTEGER PRIMARY KEY, producer TEXT, id TEXT)"); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, microstore.Config{InMemory: true})
	runs := 0
	t.Run("sqlite", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) {
			runs++
			producer := fmt.Sprint("p", runs)
			checkModel(rt, func(fail func(framework.Record) error) (handleBatch, func() []string) {
				h := f.marks(t, producer, nil).Handler(f.DB, func(ctx context.Context, tx *sql.Tx, r framework.Record) error {
					_, err := tx.ExecContext(ctx, "INSERT INTO handled (producer, id) VALUES (?, ?)", producer, r.ID)
					return errors.Join(err, fail(r))
				})
				return h.HandleBatch, func() (ids []string) {
					rows, err := f.Query("SELECT id FROM handled WHERE producer = ? ORDER BY n", producer)
					if err != nil {
						rt.Fatal(err)
					}
					defer rows.Close()
					for rows.Next() {
						var id string
						if err := rows.Scan(&id); err != nil {
							rt.Fatal(err)
						}
						ids = append(ids, id)
					}
					return ids
				}
			})
		})
	})
	t.Run("microstore", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) {
			runs++
			producer := fmt.Sprint("p", runs)
			checkModel(rt, func(fail func(framework.Record) error) (handleBatch, func() []string) {
				h := s.marks(t, producer).Handler(func(_ context.Context, b *microstore.Batch, r framework.Record) error {
					old, _, _, err := s.effects.Get(producer)
					all := append(append([]byte(nil), old...), r.ID+" "...)
					return errors.Join(err, s.effects.Set(b, producer, all, nil), fail(r))
				})
				return h.HandleBatch, func() []string {
					all, _, _, err := s.effects.Get(producer)
					if err != nil {
						rt.Fatal(err)
					}
					return strings.Fields(string(all))
				}
			})
		})
	})
}

type handleBatch func(context.Context, []framework.Record) (inbox.Result, error)

func checkModel(t *rapid.T, open func(fail func(framework.Record) error) (handleBatch, func() []string)) {
	numbers, failures := map[string]int{}, map[string]int{}
	var log []framework.Record
	for i := range rapid.IntRange(1, 30).Draw(t, "messages") {
		key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
		numbers[key] += rapid.IntRange(1, 3).Draw(t, "gap")
		log = append(log, numbered(key, fmt.Sprint(key, i), numbers[key]))
		failures[log[i].ID] = rapid.IntRange(-4, 2).Draw(t, "failures")
	}
	handle, handled := open(func(r framework.Record) error {
		if failures[r.ID]--; failures[r.ID] >= 0 {
			return errBad
		}
		return nil
	})
	for acknowledged := 0; acknowledged < len(log); {
		from := rapid.IntRange(0, acknowledged).Draw(t, "from")
		to := min(len(log), acknowledged+rapid.IntRange(1, 12).Draw(t, "more"))
		result, err := handle(context.Background(), log[from:to])
		if err != nil {
			t.Fatal(err)
		}
		if result.Applied+result.Duplicates+len(result.Failed) != to-from {
			t.Fatalf("%d messages became %+v", to-from, result)
		}
		acknowledged = to
		if len(result.Failed) > 0 {
			acknowledged = from + result.Failed[0].Index
		}
	}
	got := handled()
	for _, key := range []string{"a", "b", "c"} {
		var want, have []string
		for _, r := range log {
			if r.Key == key {
				want = append(want, r.ID)
			}
		}
		for _, id := range got {
			if strings.HasPrefix(id, key) {
				have = append(have, id)
			}
		}
		if !slices.Equal(want, have) {
			t.Fatalf("key %s: handled %v, of %v", key, have, want)
		}
	}
}

// Fault 13, with marks: consumers that get the same messages at the same time.
func TestMarksAtTheSameTime(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		h := f.marks(t, "orders", nil).Handler(f.DB, f.effect)
		var all []framework.Record
		var ids []string
		for i := range 200 {
			ids = append(ids, fmt.Sprint("m", i))
			all = append(all, numbered(fmt.Sprint("k", i%7), ids[i], i))
		}
		var consumers sync.WaitGroup
		for c := range 4 {
			consumers.Go(func() {
				for from := 0; from < len(all); {
					to := min(len(all), from+5*(c+1))
					if _, err := h.HandleBatch(context.Background(), all[from:to]); err != nil {
						if f.Dialect != inbox.MySQL { // which may end one of two that wait for each other
							t.Error(err)
							return
						}
						continue
					}
					from = to
				}
			})
		}
		consumers.Wait()
		f.check(t, ids...)
	})
}

// Consumers with different keys, as those of different partitions are, do not wait for each other: on MariaDB they would end
// each other's transactions.
func TestMarksOfDifferentKeysAtTheSameTime(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		h := f.marks(t, "orders", nil).BatchHandler(f.DB, func(context.Context, *sql.Tx, []framework.Record) error { return nil })
		handle := func(c, n int) {
			all := make([]framework.Record, 300)
			for k := range all {
				all[k] = numbered(fmt.Sprintf("%d-%d", c, k), fmt.Sprintf("m-%d-%d-%d", c, k, n), n)
			}
			if result, err := h.HandleBatch(context.Background(), all); err != nil || result.Applied != len(all) {
				t.Errorf("consumer %d, round %d: %d applied, %v", c, n, result.Applied, err)
			}
		}
		var consumers sync.WaitGroup
		for c := range 2 {
			handle(c, 0) // the rows are there, then
		}
		for c := range 2 {
			consumers.Go(func() {
				for n := range 10 {
					handle(c, n+1)
				}
			})
		}
		consumers.Wait()
	})
}

// More keys and sources than fit into one statement.
func TestMarksOfManyKeys(t *testing.T) {
	onEachMarks(t, func(t *testing.T, make makeConsumer) {
		c := make(t, "orders", nil, never)
		var all []framework.Record
		var ids []string
		for i := range 2100 {
			r := numbered(fmt.Sprint("k", i/2), fmt.Sprint("m", i), i)
			r.Source = []string{"", "b"}[i%2]
			all, ids = append(all, r), append(ids, r.ID)
		}
		for i, want := range []int{2100, 0} {
			if result, err := c.HandleBatch(t.Context(), all); err != nil || result.Applied != want || len(result.Failed) > 0 {
				t.Fatalf("time %d: %d applied, %v", i, result.Applied, err)
			}
		}
		c.check(t, ids...)
	})
}

func TestMarksClaim(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		marks := f.marks(t, "orders", nil)
		for _, claim := range []struct {
			number int
			fresh  bool
		}{{5, true}, {5, false}, {4, false}, {9, true}, {7, false}} {
			if err := f.InTx(t.Context(), func(tx *sql.Tx) error {
				fresh, err := marks.Claim(t.Context(), inbox.SQL(tx), numbered("a\x00\xff", "m", claim.number))
				if fresh != claim.fresh {
					t.Errorf("%d is new: %v", claim.number, fresh)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := marks.Claim(t.Context(), inbox.SQL(f.DB), framework.Record{ID: "a", Key: "k"}); !errors.Is(err, inbox.ErrNoSequence) {
			t.Errorf("no number: %v", err)
		}
		if err := marks.Check(t.Context(), f.DB); err != nil {
			t.Error(err)
		}
		missing, err := inbox.NewMarks(f.Dialect, "s", "p", inbox.MarksConfig{Name: f.Name + "_x"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := missing.Claim(t.Context(), inbox.SQL(f.DB), numbered("k", "a", 1)); !errors.Is(err, inbox.ErrNoTable) || !strings.Contains(err.Error(), "inbox.Marks.Create") {
			t.Errorf("no table: %v", err)
		}
		if _, err := missing.Handler(f.DB, f.effect).HandleBatch(t.Context(), []framework.Record{numbered("k", "a", 1)}); !errors.Is(err, inbox.ErrNoTable) {
			t.Errorf("no table: %v", err)
		}
	})
}

// beforeInsert calls f before the first INSERT.
type beforeInsert struct {
	inbox.Execer
	f func()
}

func (b *beforeInsert) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if f := b.f; f != nil && strings.HasPrefix(query, "INSERT") {
		b.f = nil
		f()
	}
	return b.Execer.Exec(ctx, query, args...)
}

// A key's first mark may come from another transaction while a message with a higher number is claimed.
func TestMarksClaimOfANewKey(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		if f.Dialect == inbox.SQLite {
			return // one writer
		}
		marks := f.marks(t, "orders", nil)
		claim := func(number int, between func()) {
			tx, err := f.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			fresh, err := marks.Claim(t.Context(), &beforeInsert{inbox.SQL(tx), between}, numbered("k", "m", number))
			if err == nil {
				err = tx.Commit()
			}
			if !fresh || err != nil {
				t.Errorf("%d is new: %v, %v", number, fresh, err)
			}
		}
		claim(5, func() { claim(4, nil) })
	})
}

func TestMarksClaimWithPgx(t *testing.T) {
	f := makeFixture(t, sqltest.Postgres(t), inbox.Config{})
	marks := f.marks(t, "orders", nil)
	conn, err := pgx.Connect(t.Context(), f.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, want := range []bool{true, false} {
		if fresh, err := marks.Claim(t.Context(), inbox.Pgx(conn), numbered("k", "a", 1)); err != nil || fresh != want {
			t.Errorf("new: %v, %v", fresh, err)
		}
	}
}

func TestMarksMiddleware(t *testing.T) {
	f := makeFixture(t, sqltest.SQLite(t), inbox.Config{})
	calls := 0
	handler := f.marks(t, "orders", nil).Middleware(f.DB)(func(msg *message.Message) ([]*message.Message, error) {
		calls++
		tx, ok := inbox.TxOf(msg.Context())
		if !ok {
			return nil, errors.New("no transaction")
		}
		return nil, f.effect(msg.Context(), tx, framework.FromMessage(msg))
	})
	for _, test := range []struct {
		r     framework.Record
		err   error
		calls int
	}{{numbered("k", "a", 1), nil, 1}, {numbered("k", "a", 1), nil, 1}, {numbered("k", "bad", 2), errBad, 2}, {numbered("k", "b", 3), nil, 3}, {records("c")[0], inbox.ErrNoSequence, 3}} {
		if _, err := handler(framework.ToMessage(&test.r)); !errors.Is(err, test.err) || calls != test.calls {
			t.Errorf("%s: %v, %d calls", test.r.ID, err, calls)
		}
	}
	f.check(t, "a", "b")
}

// What an outbox's relay sends has the numbers that marks go by; twice, it takes effect once.
func TestMarksBehindAnOutbox(t *testing.T) {
	if inbox.MetadataSequence != outbox.MetadataSequence {
		t.Errorf("%q is not %q", inbox.MetadataSequence, outbox.MetadataSequence)
	}
	f := makeFixture(t, sqltest.SQLite(t), inbox.Config{})
	table, err := outbox.NewTable(f.Dialect, outbox.Config{Name: f.Name + "_out"})
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Create(t.Context(), f.DB); err != nil {
		t.Fatal(err)
	}
	var all []framework.Record
	var ids []string
	for i := range 50 {
		ids = append(ids, fmt.Sprint("m", i))
		all = append(all, framework.Record{ID: ids[i], Key: fmt.Sprint("k", i%3)})
	}
	if err := f.InTx(t.Context(), func(tx *sql.Tx) error {
		return table.Publisher(outbox.SQL(tx)).Publish(t.Context(), "orders", all...)
	}); err != nil {
		t.Fatal(err)
	}
	h := f.marks(t, "orders", nil).Handler(f.DB, f.effect)
	ctx, cancel := context.WithCancel(t.Context())
	var counts inbox.Result
	relay, err := outbox.NewRelay(table, f.DB, publisher(func(sent []framework.Record) error {
		for range 2 {
			result, err := h.HandleBatch(context.Background(), sent)
			if err != nil || len(result.Failed) > 0 {
				return fmt.Errorf("%+v, %w", result, err)
			}
			counts.Applied, counts.Duplicates = counts.Applied+result.Applied, counts.Duplicates+result.Duplicates
		}
		if counts.Applied == len(all) {
			cancel()
		}
		return nil
	}), outbox.RelayConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := relay.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if counts.Applied != 50 || counts.Duplicates != 50 {
		t.Errorf("%+v", counts)
	}
	f.check(t, ids...)
}

// publisher is a transport that hands over to a function.
type publisher func([]framework.Record) error

func (p publisher) Publish(_ context.Context, _ string, records []framework.Record) error {
	return p(records)
}
func (p publisher) Close() error { return nil }

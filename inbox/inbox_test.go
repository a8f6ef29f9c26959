package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/inbox"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(services.Main(m)) }

// fixture is an inbox and a table of effects: one row for each time that a message was handled.
type fixture struct {
	sqltest.Database
	box     *inbox.Inbox
	effects string
}

func onEach(t *testing.T, test func(*testing.T, fixture)) {
	sqltest.Each(t, func(t *testing.T, d sqltest.Database) { test(t, makeFixture(t, d, inbox.Config{})) })
}

func makeFixture(t *testing.T, d sqltest.Database, config inbox.Config) fixture {
	t.Helper()
	config.Name = d.Name
	box, err := inbox.New(d.Dialect, "tests", config)
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Create(t.Context(), d.DB); err != nil {
		t.Fatal(err)
	}
	f := fixture{d, box, d.Name + "_effects"}
	if _, err := d.Exec("CREATE TABLE " + f.effects + " (id varchar(100) NOT NULL)"); err != nil {
		t.Fatal(err)
	}
	return f
}

// effect is a handler that writes a row, and then fails for ids that begin with "bad".
func (f fixture) effect(ctx context.Context, tx *sql.Tx, r framework.Record) error {
	if _, err := tx.ExecContext(ctx, "INSERT INTO "+f.effects+" (id) VALUES ('"+r.ID+"')"); err != nil {
		return err
	}
	if strings.HasPrefix(r.ID, "bad") {
		return errBad
	}
	return nil
}

var errBad = errors.New("bad")

// check compares the effects with the ids that are to have one.
func (f fixture) check(t *testing.T, want ...string) {
	t.Helper()
	rows, err := f.Query("SELECT id, COUNT(*) FROM " + f.effects + " GROUP BY id")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	got := map[string]int{}
	for rows.Next() {
		var id string
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			t.Fatal(err)
		}
		got[id] = n
	}
	for _, id := range want {
		if got[id] != 1 {
			t.Errorf("%s took effect %d times", id, got[id])
		}
		delete(got, id)
	}
	if len(got) > 0 {
		t.Errorf("other effects: %v", got)
	}
}

func records(ids ...string) (all []framework.Record) {
	for _, id := range ids {
		all = append(all, framework.Record{ID: id})
	}
	return all
}

// Fault 13: a message that comes again has no second effect; a failed handler leaves nothing, and its retry runs.
func TestHandle(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		fail := true
		h := f.box.Handler(f.DB, func(ctx context.Context, tx *sql.Tx, r framework.Record) error {
			err := f.effect(ctx, tx, r)
			if fail {
				return errors.Join(err, errBad)
			}
			return err
		})
		if err := h.Handle(t.Context(), records("a")[0]); !errors.Is(err, errBad) {
			t.Fatalf("the handler's error: %v", err)
		}
		f.check(t)
		fail = false
		for range 3 {
			if err := h.Handle(t.Context(), records("a")[0]); err != nil {
				t.Fatal(err)
			}
		}
		other, err := inbox.New(f.Dialect, "another subscriber", inbox.Config{Name: f.Name})
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Handler(f.DB, func(ctx context.Context, tx *sql.Tx, r framework.Record) error {
			r.ID = "other"
			return f.effect(ctx, tx, r)
		}).Handle(t.Context(), records("a")[0]); err != nil {
			t.Fatal(err)
		}
		f.check(t, "a", "other")
		if c := h.Counts(); c != (inbox.Counts{Applied: 1, Duplicates: 2, Failed: 1}) {
			t.Errorf("counts %+v", c)
		}
	})
}

func TestHandleBatch(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		h := f.box.Handler(f.DB, f.effect)
		if result, err := h.HandleBatch(t.Context(), records("b", "a", "b", "c")); err != nil || result.Applied != 3 || result.Duplicates != 1 || result.Failed != nil {
			t.Fatalf("%+v, %v", result, err)
		}
		result, err := h.HandleBatch(t.Context(), records("c", "d", "", "bad1", "e", "bad2", "bad2", "a"))
		if err != nil || result.Applied != 2 || result.Duplicates != 3 || len(result.Failed) != 3 {
			t.Fatalf("%+v, %v", result, err)
		}
		for i, want := range []struct {
			index int
			err   error
		}{{2, inbox.ErrNoID}, {3, errBad}, {5, errBad}} {
			if got := result.Failed[i]; got.Index != want.index || !errors.Is(got.Err, want.err) {
				t.Errorf("failed: %+v, expected %+v", got, want)
			}
		}
		f.check(t, "a", "b", "c", "d", "e")
		if n := f.Count(t, f.Name); n != 5 {
			t.Errorf("%d processed messages are kept", n)
		}
		if result, err := h.HandleBatch(t.Context(), nil); err != nil || result.Applied != 0 {
			t.Errorf("an empty batch: %+v, %v", result, err)
		}
	})
}

// The handler of a batch gets what is new, in the order of the batch.
func TestBatchHandlerOrder(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		var got []string
		h := f.box.BatchHandler(f.DB, func(_ context.Context, _ *sql.Tx, records []framework.Record) error {
			for _, r := range records {
				got = append(got, r.ID)
			}
			return nil
		})
		var ids, want []string
		for i := range 2500 { // more than fit into one statement
			ids = append(ids, fmt.Sprintf("%d <&>\"'ü", 2500-i))
		}
		for _, batch := range [][]string{ids[:10], ids} {
			if _, err := h.HandleBatch(t.Context(), records(batch...)); err != nil {
				t.Fatal(err)
			}
		}
		want = ids
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("handled %d of %d, or in another order", len(got), len(want))
		}
	})
}

// Fault 13: consumers that get the same messages at the same time, in batches in any order, do not deadlock and have one
// effect.
func TestConsumersAtTheSameTime(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		h := f.box.Handler(f.DB, f.effect)
		var ids []string
		for i := range 200 {
			ids = append(ids, fmt.Sprint("m", i))
		}
		var consumers sync.WaitGroup
		for range 4 {
			shuffled := append([]string(nil), ids...)
			rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			consumers.Go(func() {
				for len(shuffled) > 0 {
					n := min(len(shuffled), 1+rand.IntN(30))
					// A database may end one of two transactions that wait for each other; the batch comes again then.
					if _, err := h.HandleBatch(context.Background(), records(shuffled[:n]...)); err != nil {
						t.Log(err)
						if f.Dialect != inbox.MySQL {
							t.Error(err)
							return
						}
						continue
					}
					shuffled = shuffled[n:]
				}
			})
		}
		consumers.Wait()
		f.check(t, ids...)
	})
}

// Fault 15: what is older than the retention is refused and counted; what is not is known, before and after a purge.
func TestRetention(t *testing.T) {
	sqltest.Each(t, func(t *testing.T, d sqltest.Database) {
		now := time.Date(2026, 11, 25, 23, 59, 59, 0, time.UTC)
		f := makeFixture(t, d, inbox.Config{Retention: 24 * time.Hour, Now: func() time.Time { return now }})
		h := f.box.Handler(f.DB, f.effect)
		at := func(id string, age time.Duration) framework.Record {
			return framework.Record{ID: id, Time: now.Add(-age)}
		}
		messages := []framework.Record{at("new", 0), at("edge", 24*time.Hour), at("half", 12*time.Hour)}
		old := at("old", 24*time.Hour+time.Second)
		for range 2 {
			if result, err := h.HandleBatch(t.Context(), messages); err != nil || result.Applied+result.Duplicates != 3 {
				t.Fatalf("%+v, %v", result, err)
			}
			if err := h.Handle(t.Context(), old); !errors.Is(err, inbox.ErrTooOld) || !strings.Contains(err.Error(), "Config.Retention is 24h") {
				t.Fatalf("too old: %v", err)
			}
		}
		if c := h.Counts(); c.Refused != 2 || c.Applied != 3 {
			t.Errorf("counts %+v", c)
		}
		f.check(t, "new", "edge", "half")
		for hour := range 50 { // as time goes by, each message is a duplicate, and then refused: never handled again
			now = now.Add(time.Hour)
			if _, err := f.box.Purge(t.Context(), f.DB); err != nil {
				t.Fatal(err)
			}
			for _, m := range messages {
				if err := h.Handle(t.Context(), m); err != nil && !errors.Is(err, inbox.ErrTooOld) {
					t.Fatalf("after %d hours: %v", hour, err)
				}
			}
		}
		f.check(t, "new", "edge", "half")
		if n := f.Count(t, f.Name); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}

func TestPurgeTakesAll(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		h := f.box.BatchHandler(f.DB, func(context.Context, *sql.Tx, []framework.Record) error { return nil })
		var all []framework.Record
		for i := range 6000 {
			all = append(all, framework.Record{ID: fmt.Sprint(i)})
		}
		if _, err := h.HandleBatch(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		later, err := inbox.New(f.Dialect, "tests", inbox.Config{Name: f.Name, Now: func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := later.Purge(t.Context(), f.DB); err != nil || n != 6000 {
			t.Errorf("deleted %d, %v", n, err)
		}
	})
}

// Subscribers with different retentions share a table: what one purges, the other still knows.
func TestPurgeLeavesOtherSubscribers(t *testing.T) {
	sqltest.Each(t, func(t *testing.T, d sqltest.Database) {
		now := time.Date(2026, 11, 25, 23, 59, 59, 0, time.UTC)
		clock := func() time.Time { return now }
		f := makeFixture(t, d, inbox.Config{Retention: 30 * 24 * time.Hour, Now: clock})
		short, err := inbox.New(d.Dialect, "short", inbox.Config{Name: d.Name, Now: clock})
		if err != nil {
			t.Fatal(err)
		}
		long := f.box.Handler(f.DB, f.effect)
		message := framework.Record{ID: "a", Time: now}
		if err := long.Handle(t.Context(), message); err != nil {
			t.Fatal(err)
		}
		nothing := func(context.Context, *sql.Tx, framework.Record) error { return nil }
		if err := short.Handler(f.DB, nothing).Handle(t.Context(), message); err != nil {
			t.Fatal(err)
		}
		now = now.Add(8 * 24 * time.Hour)
		if n, err := short.Purge(t.Context(), f.DB); err != nil || n != 1 {
			t.Errorf("deleted %d, %v", n, err)
		}
		if err := long.Handle(t.Context(), message); err != nil {
			t.Fatal(err)
		}
		f.check(t, "a")
	})
}

func TestMiddleware(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		events, err := outbox.NewTable(f.Dialect, outbox.Config{Name: f.Name + "_out"})
		if err != nil {
			t.Fatal(err)
		}
		if err := events.Create(t.Context(), f.DB); err != nil {
			t.Fatal(err)
		}
		calls := 0
		handler := f.box.Middleware(f.DB)(func(msg *message.Message) ([]*message.Message, error) {
			calls++
			tx, ok := inbox.TxOf(msg.Context())
			if !ok {
				return nil, errors.New("no transaction")
			}
			if err := f.effect(msg.Context(), tx, framework.FromMessage(msg)); err != nil {
				return nil, err
			}
			if msg.UUID == "produces" {
				return message.Messages{msg}, nil
			}
			return nil, events.Watermill(outbox.SQL(tx)).Publish("done", message.NewMessage(msg.UUID+"/done", nil))
		})
		for _, test := range []struct {
			id    string
			err   error
			calls int
		}{{"a", nil, 1}, {"a", nil, 1}, {"bad", errBad, 2}, {"bad", errBad, 3}, {"produces", inbox.ErrProduced, 4}, {"", inbox.ErrNoID, 4}} {
			msg := message.NewMessage(test.id, nil)
			if produced, err := handler(msg); !errors.Is(err, test.err) || produced != nil || calls != test.calls {
				t.Errorf("%q: %v, %v, %d calls", test.id, produced, err, calls)
			}
			if _, ok := inbox.TxOf(msg.Context()); ok {
				t.Error("the transaction has stayed in the message")
			}
		}
		f.check(t, "a")
		if n := f.Count(t, f.Name+"_out"); n != 1 {
			t.Errorf("%d events are in the outbox", n)
		}
	})
}

func TestClaim(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		for i, want := range []bool{true, false} {
			if err := f.InTx(t.Context(), func(tx *sql.Tx) error {
				fresh, err := f.box.Claim(t.Context(), inbox.SQL(tx), framework.Record{ID: "a"})
				if fresh != want {
					t.Errorf("claim %d is new: %v", i, fresh)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.box.Claim(t.Context(), inbox.SQL(f.DB), framework.Record{ID: "\xff"}); !errors.Is(err, inbox.ErrNoID) {
			t.Errorf("an id that is no text: %v", err)
		}
		missing, _ := inbox.New(f.Dialect, "s", inbox.Config{Name: f.Name + "_x"})
		_, err := missing.Claim(t.Context(), inbox.SQL(f.DB), framework.Record{ID: "a"})
		if !errors.Is(err, inbox.ErrNoTable) || !strings.Contains(err.Error(), "inbox.Inbox.Create") {
			t.Errorf("no table: %v", err)
		}
		if _, err := missing.Handler(f.DB, f.effect).HandleBatch(t.Context(), records("a")); !errors.Is(err, inbox.ErrNoTable) {
			t.Errorf("no table: %v", err)
		}
		if err := missing.Check(t.Context(), f.DB); !errors.Is(err, inbox.ErrNoTable) {
			t.Errorf("no table: %v", err)
		}
	})
}

// Ids are compared byte by byte; MySQL's texts leave out spaces at the end.
func TestIDsThatLookAlike(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		h := f.box.Handler(f.DB, func(context.Context, *sql.Tx, framework.Record) error { return nil })
		for range 2 {
			if _, err := h.HandleBatch(t.Context(), records("a", "a ", "A", "ä", "a\u0308", "a  ")); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range []string{"b", "b ", "b"} {
			if err := h.Handle(t.Context(), framework.Record{ID: id}); err != nil {
				t.Fatal(err)
			}
		}
		if c := h.Counts(); c.Applied != 8 || c.Duplicates != 7 {
			t.Errorf("counts %+v", c)
		}
	})
}

func TestClaimWithPgx(t *testing.T) {
	f := makeFixture(t, sqltest.Postgres(t), inbox.Config{})
	conn, err := pgx.Connect(t.Context(), f.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, want := range []bool{true, false} {
		if fresh, err := f.box.Claim(t.Context(), inbox.Pgx(conn), framework.Record{ID: "a"}); err != nil || fresh != want {
			t.Errorf("new: %v, %v", fresh, err)
		}
	}
}

// A table may stand behind the name of its schema.
func TestTableOfASchema(t *testing.T) {
	sqltest.Each(t, func(t *testing.T, d sqltest.Database) {
		schema := map[inbox.Dialect]string{inbox.SQLite: "main", inbox.Postgres: "public"}[d.Dialect]
		if d.Dialect == inbox.MySQL {
			if err := d.QueryRow("SELECT DATABASE()").Scan(&schema); err != nil {
				t.Fatal(err)
			}
		}
		box, err := inbox.New(d.Dialect, "s", inbox.Config{Name: schema + "." + d.Name})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := box.Create(t.Context(), d.DB); err != nil {
				t.Fatal(err)
			}
		}
		if fresh, err := box.Claim(t.Context(), inbox.SQL(d.DB), framework.Record{ID: "a"}); err != nil || !fresh {
			t.Errorf("new: %v, %v", fresh, err)
		}
		if d.Count(t, d.Name) != 1 {
			t.Error("the row is not in the table")
		}
		if box.SQL(-1) != box.SQL(0) {
			t.Error("a version that is none")
		}
	})
}

func TestNewRefuses(t *testing.T) {
	_, err := inbox.New(0, "", inbox.Config{Name: "1", Retention: -1})
	for _, says := range []string{"Postgres, MySQL or SQLite", "subscriber", "table name", "Retention"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q is not in: %v", says, err)
		}
	}
}

// TestConsumerChild is the process that dies; it is no test. It handles all messages from the first, as a consumer does
// that has acknowledged none.
func TestConsumerChild(t *testing.T) {
	fields := strings.Split(os.Getenv("INBOX_CHILD"), "|")
	if len(fields) != 6 {
		t.Skip("run by TestKill")
	}
	dialect, _ := strconv.Atoi(fields[0])
	db, err := sql.Open(fields[1], fields[2])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	box, err := inbox.New(inbox.Dialect(dialect), "tests", inbox.Config{Name: fields[3]})
	if err != nil {
		t.Fatal(err)
	}
	if point, nth, ok := strings.Cut(fields[4], " "); ok {
		n, _ := strconv.ParseInt(nth, 10, 64)
		failpoint.Crash(point, n)
	}
	f := fixture{sqltest.Database{DB: db}, box, fields[3] + "_effects"}
	h := box.Handler(db, f.effect)
	if fields[5] == "marks" {
		marks, err := inbox.NewMarks(inbox.Dialect(dialect), "tests", "orders", inbox.MarksConfig{Name: fields[3] + "_marks"})
		if err != nil {
			t.Fatal(err)
		}
		h = marks.Handler(db, f.effect)
	}
	for i := 0; i < killMessages; i += 10 {
		if result, err := h.HandleBatch(context.Background(), killBatch(i)); err != nil || len(result.Failed) > 0 {
			t.Fatalf("%+v, %v", result, err)
		}
	}
}

const killMessages = 100

// Fault 13: the consumer is killed before and after the effect, the commit and the acknowledgement.
func TestKill(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) { testKill(t, f, "ids") })
}

func TestKillWithMarks(t *testing.T) {
	onEach(t, func(t *testing.T, f fixture) {
		f.marks(t, "orders", nil)
		testKill(t, f, "marks")
	})
}

func testKill(t *testing.T, f fixture, form string) {
	killAt(t, func(crash string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestConsumerChild$")
		cmd.Env = append(os.Environ(), "INBOX_CHILD="+strings.Join([]string{strconv.Itoa(int(f.Dialect)), f.Driver, f.Address, f.Name, crash, form}, "|"))
		return cmd
	}, "inbox.handle 1", "inbox.commit.before 3", "inbox.commit.after 5", "inbox.handle 2", "inbox.commit.before 9", "inbox.commit.after 10")
	f.check(t, killed()...)
}

// killAt runs a consumer that dies at each of the places in turn, and then one that does not.
func killAt(t *testing.T, consumer func(crash string) *exec.Cmd, crashes ...string) {
	t.Helper()
	for _, crash := range append(crashes, "") {
		out, err := consumer(crash).CombinedOutput()
		var exit *exec.ExitError
		died := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if err != nil && !died {
			t.Fatalf("%v: %s", err, out)
		}
		if died != (crash != "") {
			t.Errorf("at %q the consumer died: %v", crash, died)
		}
	}
}

// killed are the ids of the messages that those consumers handle.
func killed() (ids []string) {
	for i := range killMessages {
		ids = append(ids, fmt.Sprint("m", i))
	}
	return ids
}

package inbox_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/inbox"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
)

// storeFixture is a microstore with a table of effects: how often each message was handled.
type storeFixture struct {
	*microstore.Store
	effects *microstore.Table
}

func openStore(t testing.TB, config microstore.Config) storeFixture {
	t.Helper()
	config.MemoryBytes = 32 << 20
	store, err := microstore.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	task, err := store.Task("effects")
	if err != nil {
		t.Fatal(err)
	}
	effects, err := task.Table("effects")
	if err != nil {
		t.Fatal(err)
	}
	return storeFixture{store, effects}
}

func (f storeFixture) inbox(t testing.TB, config inbox.Config) *inbox.Store {
	t.Helper()
	box, err := inbox.InStore(f.Store, "tests", config)
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// effect counts a message, and then fails for ids that begin with "bad".
func (f storeFixture) effect(_ context.Context, b *microstore.Batch, r framework.Record) error {
	old, _, ok, err := f.effects.Get(r.ID)
	if err != nil {
		return err
	}
	n := uint64(1)
	if ok {
		n += binary.BigEndian.Uint64(old)
	}
	if err := f.effects.Set(b, r.ID, binary.BigEndian.AppendUint64(nil, n), nil); err != nil {
		return err
	}
	if strings.HasPrefix(r.ID, "bad") {
		return errBad
	}
	return nil
}

// check compares the effects on disk, and in memory, with the ids that are to have one.
func (f storeFixture) check(t testing.TB, want ...string) {
	t.Helper()
	got := map[string]uint64{}
	if err := f.effects.All(func(key string, value []byte) bool {
		got[key] = binary.BigEndian.Uint64(value)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	for _, id := range want {
		if _, _, ok, err := f.effects.Get(id); got[id] != 1 || !ok || err != nil {
			t.Errorf("%s took effect %d times; in memory: %v, %v", id, got[id], ok, err)
		}
		delete(got, id)
	}
	if len(got) > 0 {
		t.Errorf("other effects: %v", got)
	}
	if _, _, ok, _ := f.effects.Get("bad"); ok {
		t.Error("what a failed handler has written is still in memory")
	}
}

// Fault 13, in a microstore: no second effect, and a failed handler leaves nothing, so its retry runs.
func TestStoreHandle(t *testing.T) {
	f := openStore(t, microstore.Config{InMemory: true})
	fail := true
	h := f.inbox(t, inbox.Config{}).Handler(func(ctx context.Context, b *microstore.Batch, r framework.Record) error {
		err := f.effect(ctx, b, r)
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
	other, err := inbox.InStore(f.Store, "another subscriber", inbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Handler(func(ctx context.Context, b *microstore.Batch, r framework.Record) error {
		r.ID = "other"
		return f.effect(ctx, b, r)
	}).Handle(t.Context(), records("a")[0]); err != nil {
		t.Fatal(err)
	}
	f.check(t, "a", "other")
	if c := h.Counts(); c != (inbox.Counts{Applied: 1, Duplicates: 2, Failed: 1}) {
		t.Errorf("counts %+v", c)
	}
}

func TestStoreHandleBatch(t *testing.T) {
	f := openStore(t, microstore.Config{InMemory: true})
	var calls [][]string
	h := f.inbox(t, inbox.Config{}).BatchHandler(func(ctx context.Context, b *microstore.Batch, all []framework.Record) error {
		var ids []string
		for _, r := range all {
			ids = append(ids, r.ID)
		}
		calls = append(calls, ids)
		for _, r := range all {
			if err := f.effect(ctx, b, r); err != nil {
				return err
			}
		}
		return nil
	})
	commits := f.Stats().Commits
	if result, err := h.HandleBatch(t.Context(), records("b", "a", "b", "c")); err != nil || result.Applied != 3 || result.Duplicates != 1 || result.Failed != nil {
		t.Fatalf("%+v, %v", result, err)
	}
	if fmt.Sprint(calls) != "[[b a c]]" || f.Stats().Commits-commits != 1 {
		t.Errorf("calls %v in %d commits", calls, f.Stats().Commits-commits)
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
	if result, err := h.HandleBatch(t.Context(), nil); err != nil || result.Applied != 0 {
		t.Errorf("an empty batch: %+v, %v", result, err)
	}
	if c := h.Counts(); c != (inbox.Counts{Applied: 5, Duplicates: 4, Refused: 1, Failed: 2}) {
		t.Errorf("counts %+v", c)
	}
}

// A batch that does not fit into a commit goes into several; a message that does not fit fails, and others do not.
func TestStoreTooBig(t *testing.T) {
	f := openStore(t, microstore.Config{InMemory: true})
	size := f.MaxBatchBytes() / 5
	h := f.inbox(t, inbox.Config{}).Handler(func(ctx context.Context, b *microstore.Batch, r framework.Record) error {
		for n := range size / 1000 {
			b.Put(fmt.Sprint(r.ID, "/", n), make([]byte, 1000))
		}
		if r.ID == "bad" {
			for n := range f.MaxBatchBytes() / 1000 {
				b.Put(fmt.Sprint(r.ID, "/more/", n), make([]byte, 1000))
			}
		}
		if r.ID == "misuse" {
			b.Put("", []byte("a value needs a name"))
		}
		r.ID = strings.ToUpper(r.ID)
		return f.effect(ctx, b, r)
	})
	var ids, want []string
	for i := range 12 {
		ids, want = append(ids, fmt.Sprint("m", i)), append(want, fmt.Sprint("M", i))
	}
	ids[4], ids[7] = "bad", "misuse"
	want = append(append(want[:4:4], want[5:7]...), want[8:]...)
	result, err := h.HandleBatch(t.Context(), records(ids...))
	if err != nil || result.Applied != 10 || len(result.Failed) != 2 {
		t.Fatalf("%d are applied, %v, %v", result.Applied, result.Failed, err)
	}
	if err := result.Failed[0].Err; !errors.Is(err, microstore.ErrTooBig) || result.Failed[0].ID != "bad" {
		t.Errorf("too big: %v", err)
	}
	if err := result.Failed[1].Err; !strings.Contains(err.Error(), "needs a name") || result.Failed[1].ID != "misuse" {
		t.Errorf("misuse: %v", err)
	}
	f.check(t, want...)
}

// Fault 15, in a microstore: each message is a duplicate, then refused, and never handled again; and what is refused
// leaves the disk.
func TestStoreRetention(t *testing.T) {
	f := openStore(t, microstore.Config{InMemory: true})
	now := time.Date(2026, 11, 25, 23, 59, 59, 0, time.UTC)
	start := now
	box := f.inbox(t, inbox.Config{Retention: 24 * time.Hour, Now: func() time.Time { return now }})
	h := box.Handler(f.effect)
	at := func(id string, age time.Duration) framework.Record {
		return framework.Record{ID: id, Time: start.Add(-age)}
	}
	messages := []framework.Record{at("new", 0), at("edge", 24*time.Hour), at("half", 12*time.Hour), {ID: "no time"}}
	for range 2 {
		if result, err := h.HandleBatch(t.Context(), messages); err != nil || result.Applied+result.Duplicates != 4 {
			t.Fatalf("%+v, %v", result, err)
		}
		if err := h.Handle(t.Context(), at("old", 24*time.Hour+time.Second)); !errors.Is(err, inbox.ErrTooOld) {
			t.Fatalf("too old: %v", err)
		}
	}
	want := []string{"new", "edge", "half", "no time"}
	for hour := range 50 {
		now = now.Add(time.Hour)
		id := fmt.Sprint("hour", hour)
		want = append(want, id)
		if err := h.Handle(t.Context(), framework.Record{ID: id, Time: now}); err != nil {
			t.Fatal(err)
		}
		for _, m := range messages[:3] {
			if err := h.Handle(t.Context(), m); err != nil && !errors.Is(err, inbox.ErrTooOld) {
				t.Fatalf("after %d hours: %v", hour, err)
			}
		}
	}
	f.check(t, want...)
	now = now.Add(-30 * time.Hour) // a clock that goes back does not bring anything back
	if err := h.Handle(t.Context(), messages[0]); !errors.Is(err, inbox.ErrTooOld) {
		t.Errorf("with a clock that has gone back: %v", err)
	}
	f.check(t, want...)
	task, err := f.Task("millrace_inbox/tests")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := task.History("processed", microstore.HistoryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	if err := ids.All(func(string, string, *microstore.Entry) bool { left++; return true }); err != nil || left > 30 {
		t.Errorf("%d ids are left of 54, where a day has 25: %v", left, err)
	}
}

// Fault 15: a store that was restored from a backup knows what it had handled, and what came afterwards takes effect once.
func TestStoreRestored(t *testing.T) {
	f := openStore(t, microstore.Config{Dir: t.TempDir()})
	h := f.inbox(t, inbox.Config{}).Handler(f.effect)
	var ids []string
	for i := range 20 {
		ids = append(ids, fmt.Sprint("m", i))
	}
	if _, err := h.HandleBatch(t.Context(), records(ids[:12]...)); err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := f.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	if _, err := h.HandleBatch(t.Context(), records(ids[12:]...)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := microstore.Restore(t.Context(), microstore.Config{Dir: dir, MemoryBytes: 32 << 20}, &backup); err != nil {
		t.Fatal(err)
	}
	restored := openStore(t, microstore.Config{Dir: dir})
	result, err := restored.inbox(t, inbox.Config{}).Handler(restored.effect).HandleBatch(t.Context(), records(ids...))
	if err != nil || result.Applied != 8 || result.Duplicates != 12 {
		t.Errorf("%+v, %v", result, err)
	}
	restored.check(t, ids...)
}

func TestStoreMiddleware(t *testing.T) {
	f := openStore(t, microstore.Config{InMemory: true})
	calls := 0
	handler := f.inbox(t, inbox.Config{}).Middleware()(func(msg *message.Message) ([]*message.Message, error) {
		calls++
		b, ok := inbox.BatchOf(msg.Context())
		if !ok {
			return nil, errors.New("no batch")
		}
		if err := f.effect(msg.Context(), b, framework.FromMessage(msg)); err != nil {
			return nil, err
		}
		if msg.UUID == "produces" {
			return message.Messages{msg}, nil
		}
		return nil, nil
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
		if _, ok := inbox.BatchOf(msg.Context()); ok {
			t.Error("the batch has stayed in the message")
		}
	}
	f.check(t, "a")
}

// A handler that panics leaves nothing behind, neither in memory nor a lock.
func TestStorePanic(t *testing.T) {
	f := openStore(t, microstore.Config{InMemory: true})
	panics := true
	h := f.inbox(t, inbox.Config{}).Handler(func(ctx context.Context, b *microstore.Batch, r framework.Record) error {
		err := f.effect(ctx, b, r)
		if panics {
			panic("a handler")
		}
		return err
	})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		_ = h.Handle(t.Context(), records("a")[0])
	}()
	if _, _, ok, _ := f.effects.Get("a"); ok {
		t.Error("what the handler has written is still in memory")
	}
	panics = false
	if err := h.Handle(t.Context(), records("a")[0]); err != nil {
		t.Fatal(err)
	}
	f.check(t, "a")
}

// A context that ends is nobody's failure, and leaves nothing.
func TestStoreContext(t *testing.T) {
	f := openStore(t, microstore.Config{InMemory: true})
	ctx, cancel := context.WithCancel(t.Context())
	h := f.inbox(t, inbox.Config{}).Handler(func(ctx context.Context, b *microstore.Batch, r framework.Record) error {
		cancel()
		return errors.Join(f.effect(ctx, b, r), ctx.Err())
	})
	if result, err := h.HandleBatch(ctx, records("a", "b")); !errors.Is(err, context.Canceled) || result.Failed != nil {
		t.Errorf("%+v, %v", result, err)
	}
	f.check(t)
}

func TestStoreAtTheSameTime(t *testing.T) {
	f := openStore(t, microstore.Config{InMemory: true})
	box := f.inbox(t, inbox.Config{})
	var inside atomic.Int64 // handlers and readers
	alone := func() (leave func()) {
		if n := inside.Add(1); n != 1 {
			t.Errorf("%d look at the parts at the same time", n)
		}
		runtime.Gosched()
		return func() { inside.Add(-1) }
	}
	h := box.Handler(func(ctx context.Context, b *microstore.Batch, r framework.Record) error {
		defer alone()()
		return f.effect(ctx, b, r)
	})
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
				if _, err := h.HandleBatch(context.Background(), records(shuffled[:n]...)); err != nil {
					t.Error(err)
					return
				}
				if err := box.Do(func() error {
					defer alone()()
					_, _, _, err := f.effects.Get("m1")
					return err
				}); err != nil {
					t.Error(err)
				}
				shuffled = shuffled[n:]
			}
		})
	}
	consumers.Wait()
	f.check(t, ids...)
}

// Claims and commits of the caller's own.
func TestStoreClaim(t *testing.T) {
	f := openStore(t, microstore.Config{InMemory: true})
	box := f.inbox(t, inbox.Config{})
	for i, want := range []bool{true, true, false} { // the first is taken back
		if err := box.Do(func() error {
			b := f.NewBatch()
			fresh, err := box.Claim(b, framework.Record{ID: "a"})
			if fresh != want || err != nil {
				t.Errorf("claim %d is new: %v, %v", i, fresh, err)
			}
			if i == 0 {
				b.Rollback(microstore.Mark{})
				return nil
			}
			return f.Commit(t.Context(), b)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := box.Claim(f.NewBatch(), framework.Record{}); !errors.Is(err, inbox.ErrNoID) {
		t.Errorf("no id: %v", err)
	}
}

func TestInStoreRefuses(t *testing.T) {
	for says, err := range map[string]error{
		"nil":        second(inbox.InStore(nil, "s", inbox.Config{})),
		"subscriber": second(inbox.InStore(openStore(t, microstore.Config{InMemory: true}).Store, "", inbox.Config{})),
		"Retention":  second(inbox.InStore(nil, "s", inbox.Config{Retention: -1})),
		"producer":   second(inbox.MarksInStore(nil, "s", "", inbox.MarksConfig{})),
		"table name": second(inbox.MarksInStore(nil, "s", "p", inbox.MarksConfig{Name: "1"})),
	} {
		if err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "inbox: ") {
			t.Errorf("%q is not in: %v", says, err)
		}
	}
}

func second(_ *inbox.Store, err error) error { return err }

// A commit that goes wrong ends the store; opened again, it takes the messages again, once.
func TestStoreFails(t *testing.T) {
	dir := t.TempDir()
	for _, point := range []string{"store.commit.before", "store.commit.after", "inbox.commit.after", ""} {
		f := openStore(t, microstore.Config{Dir: dir})
		box := f.inbox(t, inbox.Config{})
		disarm := failpoint.Arm(point, func() error { return errBad })
		result, err := box.Handler(f.effect).HandleBatch(t.Context(), records("a", "b"))
		disarm()
		if (err == nil) != (point == "" || point == "inbox.commit.after" && result.Duplicates == 2) {
			t.Errorf("%s: %+v, %v", point, result, err)
		}
		if strings.HasPrefix(point, "store") && !errors.Is(err, microstore.ErrFailed) && err != nil {
			t.Errorf("%s: %v", point, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	openStore(t, microstore.Config{Dir: dir}).check(t, "a", "b")
}

// TestStoreChild is the process that dies; it is no test.
func TestStoreChild(t *testing.T) {
	dir, crash, ok := strings.Cut(os.Getenv("INBOX_STORE_CHILD"), "|")
	if !ok {
		t.Skip("run by TestStoreKill")
	}
	form, crash, _ := strings.Cut(crash, "|")
	if point, nth, ok := strings.Cut(crash, " "); ok {
		n, _ := strconv.ParseInt(nth, 10, 64)
		failpoint.Crash(point, n)
	}
	f := openStore(t, microstore.Config{Dir: dir})
	box := f.inbox(t, inbox.Config{})
	if form == "marks" {
		box = f.marks(t, "orders")
	}
	h := box.Handler(f.effect)
	for i := 0; i < killMessages; i += 10 {
		if result, err := h.HandleBatch(context.Background(), killBatch(i)); err != nil || len(result.Failed) > 0 {
			t.Fatalf("%+v, %v", result, err)
		}
	}
}

// killBatch are ten messages from i on, numbered within three keys.
func killBatch(i int) (batch []framework.Record) {
	for n := i; n < i+10; n++ {
		batch = append(batch, numbered(fmt.Sprint("k", n%3), fmt.Sprint("m", n), n/3))
	}
	return batch
}

// Fault 13, in a microstore: the consumer is killed around the effect, the commit and the acknowledgement.
func TestStoreKill(t *testing.T) {
	for _, form := range []string{"ids", "marks"} {
		t.Run(form, func(t *testing.T) {
			dir := t.TempDir()
			killAt(t, func(crash string) *exec.Cmd {
				cmd := exec.Command(os.Args[0], "-test.run=^TestStoreChild$")
				cmd.Env = append(os.Environ(), "INBOX_STORE_CHILD="+dir+"|"+form+"|"+crash)
				return cmd
			}, "inbox.handle 1", "inbox.commit.before 3", "inbox.commit.after 2", "store.commit.before 1", "store.commit.after 2", "inbox.commit.before 2")
			openStore(t, microstore.Config{Dir: dir}).check(t, killed()...)
		})
	}
}

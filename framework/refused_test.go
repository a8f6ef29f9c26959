package framework_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

const (
	refusedEvents = 400
	refusedLimit  = 100
)

// tooLarge tells which of the events are larger than the sink takes: some alone, and some next to each other.
func tooLarge(i int) bool { return i%29 == 3 || i >= 200 && i < 220 }

func someTooLarge() (records []framework.Record, fit, not []string) {
	records = thingRecords(refusedEvents, 10, time.Second)
	for i := range records {
		if tooLarge(i) {
			records[i].Value = fmt.Appendf(nil, `{"n":%d,"pad":"<%s>"}`, i, strings.Repeat("x", 20*refusedLimit))
			not = append(not, records[i].ID)
		} else {
			fit = append(fit, records[i].ID)
		}
	}
	return records, fit, not
}

// lettersOf reads dead letters, each once by its id, or by that of the output that was refused, and those that are in pieces made whole.
func lettersOf(t *testing.T, records []framework.Record) (all []framework.Fault) {
	t.Helper()
	var pieces framework.FaultPieces
	seen := map[string]bool{}
	for _, r := range records {
		var f framework.Fault
		if err := json.Unmarshal(r.Value, &f); err != nil {
			t.Fatal(err)
		}
		f, ok, err := pieces.Add(f)
		if err != nil {
			t.Fatal(err)
		}
		name := r.ID
		if f.Refused {
			name = "event " + f.Event.ID
		}
		if ok && !seen[name] {
			all = append(all, f)
			seen[name] = true
		}
	}
	for _, f := range pieces.Rest() {
		if !seen["event "+f.Event.ID] { // else it was sent again whole, when it fitted
			t.Errorf("a dead letter lacks pieces: %+v", f)
		}
	}
	return all
}

// refusing is a bench whose sink does not take some of what is sent to it, and does not say so before.
type refusing struct {
	*bench
	pipeline  *framework.Pipeline
	out, dead *framework.TestSink // dead is nil where dead letters are in the store
	fit, not  []string
	sent      []framework.Record
}

// letterPlace is where dead letters go.
type letterPlace int

const (
	inTheStore letterPlace = iota
	outside
	outsideInPieces // it takes none in one record
)

const piecesLimit = 10 * refusedLimit

func newRefusing(t *testing.T, dead letterPlace) *refusing {
	b := &refusing{bench: newBench(t, 0), pipeline: oneStep(nothing), out: &framework.TestSink{Limit: refusedLimit}}
	b.sent, b.fit, b.not = someTooLarge()
	b.feed = framework.NewFeed(map[string][][]framework.Record{"in": {b.sent}})
	b.feed.Bounded = true
	b.config.BatchEvents = 30
	b.config.Routes["in"], b.config.Routes["out"] = b.feed, b.out
	if dead != inTheStore {
		b.dead = &framework.TestSink{}
		if dead == outsideInPieces {
			b.dead.Limit = piecesLimit
		}
		b.config.Routes[b.pipeline.DeadLetters()] = b.dead
	}
	return b
}

// reopen goes on with the store in dir; the one before may have failed with an error.
func (b *refusing) reopen(t *testing.T, dir string, broken error) {
	t.Helper()
	if err := b.store.Close(); err != nil && !errors.Is(err, broken) {
		t.Fatal(err)
	}
	store, err := microstore.Open(microstore.Config{Dir: dir, GCInterval: -1, MemoryBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	b.store, b.config.Store, b.config.Transport = store, store, topicsIn(t, store)
}

func (b *refusing) letters(t *testing.T) []framework.Fault {
	t.Helper()
	if b.dead != nil {
		return lettersOf(t, b.dead.Records())
	}
	return lettersOf(t, readTopic(t, topicsIn(t, b.store), b.pipeline.DeadLetters()))
}

// check checks that each record is in the sink or, with its bytes, in the dead letters, and in order.
func (b *refusing) check(t *testing.T) {
	t.Helper()
	if got := firsts(ids(b.out.Records())); !slices.Equal(got, b.fit) {
		t.Errorf("the sink has %d records, want %d: %q", len(got), len(b.fit), got)
	}
	letters := b.letters(t)
	var got []string
	for _, f := range letters {
		got = append(got, f.Event.ID)
	}
	if !slices.Equal(got, b.not) {
		t.Errorf("dead letters of %q, want %q", got, b.not)
		return
	}
	for i, f := range letters {
		if f.Pipeline != "p" || f.Step != "out" || f.Topic != "out" || !f.Refused || f.Class != framework.ClassPermanent ||
			!strings.Contains(f.Error, framework.ErrTooLarge.Error()) {
			t.Fatalf("a dead letter: %+v", f)
		}
		n := slices.IndexFunc(b.sent, func(r framework.Record) bool { return r.ID == b.not[i] })
		r, err := f.Event.Record()
		if err != nil || string(r.Value) != string(b.sent[n].Value) || r.Key != b.sent[n].Key || !r.Time.Equal(b.sent[n].Time) {
			t.Fatalf("a dead letter holds %+v, %v; what was sent is %+v", r, err, b.sent[n])
		}
	}
	for _, name := range []string{"out", b.pipeline.DeadLetters()} {
		outbox, err := b.store.Outbox(name)
		if err != nil {
			t.Fatal(err)
		}
		if rows, _ := outbox.Backlog(); rows > 0 {
			t.Errorf("%d rows are left for %q", rows, name)
		}
	}
}

// firsts are the ids without those that come again.
func firsts(all []string) (once []string) {
	seen := map[string]bool{}
	for _, id := range all {
		if !seen[id] {
			once = append(once, id)
		}
		seen[id] = true
	}
	return once
}

func eachPlaceOfDeadLetters(t *testing.T, f func(*testing.T, letterPlace)) {
	for name, place := range map[string]letterPlace{"in the store": inTheStore, "outside": outside, "outside, in pieces": outsideInPieces} {
		t.Run(name, func(t *testing.T) { f(t, place) })
	}
}

// A record that its sink refuses for good after its commit is a dead letter with all that it was, and what comes after it is
// sent, in order; also what is refused while the run ends. It is not run again, but published when the sink takes it.
func TestRecordRefusedForGood(t *testing.T) {
	eachPlaceOfDeadLetters(t, func(t *testing.T, place letterPlace) {
		b := newRefusing(t, place)
		committed, events := make(chan struct{}), 0
		var told atomic.Int64
		b.config.Hooks = []framework.Hook{commits(func(i framework.CommitInfo) {
			if events += i.Events; events == refusedEvents {
				close(committed)
			}
		}), faults(func(framework.Fault) { told.Add(1) })}
		b.out.Before = func(context.Context) error { <-committed; return nil } // so that the run is ending when it refuses
		if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); err != nil {
			t.Fatal(err)
		}
		b.check(t)
		if int(told.Load()) != len(b.not) {
			t.Errorf("hooks were told of %d faults, want %d", told.Load(), len(b.not))
		}

		letters := b.letters(t)
		runner := b.runner(t, b.pipeline)
		if err := runner.Resubmit(t.Context(), letters...); err == nil || !strings.Contains(err.Error(), `topic "out" did not take`) {
			t.Errorf("resubmitting it: %v", err)
		}
		if err := runner.Discard(t.Context(), letters...); err != nil {
			t.Errorf("discarding it: %v", err)
		}
	})
}

type faults func(framework.Fault)

func (f faults) OnFault(fault framework.Fault) { f(fault) }

// Whatever fails while records are refused, each is sent or a dead letter with one id in the end, and nothing is left.
func TestRefusedForGoodFailsAtEachPoint(t *testing.T) {
	broken := errors.New("broken")
	points := []string{"release.before", "release.refused", "release.after", "release.forgotten", "store.commit.before", "store.commit.after"}
	eachPlaceOfDeadLetters(t, func(t *testing.T, place letterPlace) {
		for _, point := range points {
			t.Run(point, func(t *testing.T) {
				b := newRefusing(t, place)
				dir := t.TempDir()
				for failures := 0; ; failures++ {
					b.reopen(t, dir, broken) // a store that has failed takes no more
					var hits atomic.Int64
					disarm := failpoint.Arm(point, func() error {
						if hits.Add(1) == int64(1+failures*failures) && failures < 4 {
							return broken
						}
						return nil
					})
					err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline)))
					disarm()
					if err == nil {
						if failures == 0 {
							t.Error("it did not fail")
						}
						break
					}
					if !errors.Is(err, broken) {
						t.Fatal(err)
					}
				}
				b.check(t)
				if err := b.store.Close(); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

// A limit that was lowered while records waited in the outbox does not end every start.
func TestRefusedAfterTheNextStart(t *testing.T) {
	b := newRefusing(t, inTheStore)
	b.config.StopTimeout = 100 * time.Millisecond
	b.out.Before = func(context.Context) error { return errRefused }
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	events := 0
	b.config.Hooks = []framework.Hook{commits(func(i framework.CommitInfo) {
		if events += i.Events; events == refusedEvents {
			stop()
		}
	})}
	if err := soon(t, run(ctx, t, b.runner(t, b.pipeline))); !errors.Is(err, framework.ErrStopTimeout) {
		t.Fatal(err)
	}
	b.out.Before, b.config.Hooks, b.config.StopTimeout = nil, nil, 0
	if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); err != nil {
		t.Fatal(err)
	}
	b.check(t)
}

// A topic that takes not even the smallest piece of a dead letter takes none at all: the run ends and says what to do. The
// record is whole in the outbox, and goes into the dead letters when these take something.
func TestDeadLettersThatTakeNothing(t *testing.T) {
	b := newRefusing(t, outside)
	b.dead.Limit = refusedLimit
	for range 2 {
		err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline)))
		if !errors.Is(err, framework.ErrTooLarge) || !strings.Contains(err.Error(), "raise what it takes, and start again") {
			t.Fatalf("the run ends with %v", err)
		}
	}
	b.dead.Limit = piecesLimit
	if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); err != nil {
		t.Fatal(err)
	}
	b.check(t)
}

// What the dead letters take, and whether they do, may change between two pieces, and the process may end there: each dead
// letter is whole in the end.
func TestPiecesOfAnySize(t *testing.T) {
	broken := errors.New("broken")
	rapid.Check(t, func(draw *rapid.T) {
		b := newRefusing(t, outside)
		limits := rapid.SliceOfN(rapid.IntRange(600, 4000), 1, 5).Draw(draw, "limits")
		failures := rapid.SliceOfN(rapid.IntRange(1, 40), 1, 5).Draw(draw, "failures")
		calls := 0
		b.dead.Before = func(context.Context) error {
			calls++
			b.dead.Limit = limits[calls/7%len(limits)]
			if len(failures) > 0 && calls >= failures[0] {
				calls, failures = 0, failures[1:]
				return framework.Permanent(broken)
			}
			return nil
		}
		err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline)))
		for ; errors.Is(err, broken); err = soon(t, run(t.Context(), t, b.runner(t, b.pipeline))) {
		}
		if err != nil {
			draw.Fatal(err)
		}
		b.check(t)
	})
}

// Pieces may come in any order and more than once, and those of a dead letter that was made anew with another error are others.
func TestFaultPieces(t *testing.T) {
	var all []framework.Fault
	var want []string
	for _, limits := range [][2]int{{refusedLimit, piecesLimit}, {refusedLimit, 2 * piecesLimit}, {refusedLimit + 1, piecesLimit}} {
		some := len(all) == 0 // of the first not all are there, but larger ones are
		b := newRefusing(t, outside)
		b.out.Limit, b.dead.Limit = limits[0], limits[1]
		if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); err != nil {
			t.Fatal(err)
		}
		if !some {
			want = append(want, b.not...) // those of the last have another error
		}
		for i, r := range b.dead.Records() {
			var f framework.Fault
			if some && i%2 == 1 {
				continue
			}
			if err := json.Unmarshal(r.Value, &f); err != nil {
				t.Fatal(err)
			}
			all = append(all, f)
		}
	}
	slices.Sort(want)
	rapid.Check(t, func(draw *rapid.T) {
		shuffled := rapid.Permutation(append(slices.Clone(all), all[:rapid.IntRange(0, len(all)).Draw(draw, "twice")]...)).Draw(draw, "order")
		var pieces framework.FaultPieces
		var got []string
		for i, f := range shuffled {
			whole, ok, err := pieces.Add(f)
			if err != nil {
				draw.Fatal(err)
			}
			if !ok {
				continue
			}
			if got = append(got, whole.Event.ID); !slices.ContainsFunc(shuffled[:i+1], func(f framework.Fault) bool { return f.Event.ID == whole.Event.ID }) {
				draw.Fatalf("%q is whole without its pieces", whole.Event.ID)
			}
			if bytes, err := whole.Event.Bytes(); err != nil || len(bytes) < 20*refusedLimit {
				draw.Fatalf("%q has %d bytes, %v", whole.Event.ID, len(bytes), err)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) || len(pieces.Rest()) > 0 {
			draw.Fatalf("whole are %q, want %q; %d are not", got, want, len(pieces.Rest()))
		}
	})
	var pieces framework.FaultPieces
	if _, ok, err := pieces.Add(all[1]); ok || err != nil || len(pieces.Rest()) != 1 {
		t.Errorf("one piece: whole=%v, %v, the rest is %+v", ok, err, pieces.Rest())
	}
}

// What a refused output has in key, metadata and id may be larger than the dead letters take, too.
func TestRefusedForAllItHas(t *testing.T) {
	long := strings.Repeat("0123456789", 1000)
	sent := framework.Record{ID: "id-" + long, Key: "key-" + long, Time: noon, Metadata: map[string]string{"name-" + long: long},
		Value: fmt.Appendf(nil, `{"n":1,"pad":"<%s>"}`, long)}
	b := newRefusing(t, outsideInPieces)
	b.feed = framework.NewFeed(map[string][][]framework.Record{"in": {{sent}}})
	b.feed.Bounded = true
	b.config.Routes["in"] = b.feed
	if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); err != nil {
		t.Fatal(err)
	}
	letters := b.letters(t)
	if len(letters) != 1 {
		t.Fatalf("%d dead letters", len(letters))
	}
	got, err := letters[0].Event.Record()
	if err != nil || got.ID != sent.ID || got.Key != sent.Key || string(got.Value) != string(sent.Value) || !maps.Equal(got.Metadata, sent.Metadata) {
		t.Errorf("the dead letter holds %+v, %v", got, err)
	}
	for _, r := range b.dead.Records() {
		var f framework.Fault
		if err := json.Unmarshal(r.Value, &f); err != nil {
			t.Fatal(err)
		}
		if len(r.Key)+len(r.ID)+len(r.Causes) > piecesLimit {
			t.Fatalf("a piece has the whole key or id: %.300v", r)
		}
		if _, err := f.Event.Record(); err == nil {
			t.Fatal("a piece passes for the event")
		}
	}
}

// A dead letter may take more than the output did, and so not fit one commit.
func TestDeadLetterThatDoesNotFitOneCommit(t *testing.T) {
	if testing.Short() {
		t.Skip("tens of megabytes")
	}
	b := newRefusing(t, outside)
	noise, random := make([]byte, b.store.MaxRawBytes()*7/8), rand.NewChaCha8([32]byte{})
	_, _ = random.Read(noise)
	for i := range noise {
		noise[i] |= 0x80 // no text: in a dead letter it is base64, which does not pack
	}
	b.sent, b.fit, b.not = []framework.Record{{ID: "large", Key: "k", Time: noon, Value: noise}}, nil, []string{"large"}
	b.feed = framework.NewFeed(map[string][][]framework.Record{"in": {b.sent}})
	b.feed.Bounded = true
	b.config.StopTimeout = 5 * time.Minute // under the race detector it takes half a minute
	b.config.Routes["in"] = b.feed
	b.pipeline = framework.NewPipeline("p")
	framework.To(framework.From(b.pipeline, "in", framework.Source[[]byte]{Codec: framework.Bytes()}), "out",
		framework.Sink[[]byte]{Codec: framework.Bytes()})
	if err := <-run(t.Context(), t, b.runner(t, b.pipeline)); err != nil {
		t.Fatal(err)
	}
	b.check(t)
	if len(b.dead.Records()) == 1 {
		t.Error("the dead letter fits one commit: the test tests nothing")
	}
}

// Where partitions are shared out, the group's position waits for the dead letter of a refused record: the next process
// makes it again when the first dies before the topic has it, or has all of its pieces.
func TestRefusedIsNotMarked(t *testing.T) {
	t.Run("whole", func(t *testing.T) { refusedIsNotMarked(t, 0) })
	t.Run("in pieces", func(t *testing.T) { refusedIsNotMarked(t, 3) })
}

func refusedIsNotMarked(t *testing.T, pieces int) {
	const n, limit = 20, 600
	b := framework.NewBroker()
	for _, topic := range []string{"left", "paired", "shared.faults"} {
		b.Create(topic, 1)
	}
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline("shared")
		framework.To(framework.From[thing](p, "left"), "paired")
		return p
	}
	large := func(topic string, r *framework.Record) bool {
		return topic == "paired" && r.ID == "e3" || topic == "shared.faults" && pieces > 0 && len(r.Value) > limit
	}
	first := start(t, b, openStore(t, t.TempDir()), pipeline())
	first.member.Refuse = nil
	first.member.TooLarge = large
	first.member.Takes = func(topic string) bool { return topic != "shared.faults" || len(b.Records(topic)) < pieces }
	first.assignAll()
	records := thingRecords(n, 10, time.Second)
	records[3].Value = fmt.Appendf(nil, `{"n":3,"pad":%q}`, strings.Repeat("x", 10*limit))
	for i := range records { // when one is sent, the commit of the one before is settled, as far as it will be
		b.Append("left", records[i])
		if i != 3 {
			awaitRecord(t, b, "paired", records[i].ID)
		}
	}
	if at, _ := b.Marked("left", 0); at > 3 {
		t.Errorf("the group is at %d, and the dead letter of 3 is nowhere but here", at)
	}
	first.kill()

	second := start(t, b, openStore(t, t.TempDir()), pipeline())
	second.member.TooLarge = large
	second.assignAll()
	awaitAll(t, b, "left")
	second.end()
	var got []framework.Fault
	if err := second.runner.DeadLetters(t.Context(), "shared", func(f framework.Fault) error { got = append(got, f); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Event.ID != "e3" || !got[0].Refused || got[0].Event.Data != string(records[3].Value) {
		t.Errorf("dead letters: %+v", got)
	}
	if all := len(b.Records("shared.faults")); pieces == 0 && all != 1 || pieces > 0 && all <= pieces {
		t.Errorf("there are %d records of the dead letter", all)
	}
	if _, got := countIDs(b, "paired"); got != n-1 {
		t.Errorf("%d records were sent, want %d", got, n-1)
	}
}

func awaitRecord(t *testing.T, b *framework.Broker, topic, id string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !slices.Contains(ids(b.Records(topic)), id) {
		if time.Now().After(deadline) {
			t.Fatalf("record %q has not come", id)
		}
		time.Sleep(time.Millisecond)
	}
}

// The dead letter of an output says nothing of the event of a source that is at the same place and has its id.
func TestRefusedIsNoPastFault(t *testing.T) {
	b := framework.NewBroker()
	for _, topic := range []string{"left", "paired", "shared.faults"} {
		b.Create(topic, 1)
	}
	records := thingRecords(1, 1, time.Second)
	b.Append("left", records...)
	value, err := json.Marshal(framework.Fault{Pipeline: "shared", Step: "left", Topic: "left", Refused: true,
		Class: framework.ClassPermanent, Event: framework.FaultEvent{ID: records[0].ID}})
	if err != nil {
		t.Fatal(err)
	}
	b.Append("shared.faults", framework.Record{ID: "letter", Type: framework.FaultType, Value: value})
	p := framework.NewPipeline("shared")
	framework.To(processors.Filter(framework.From[thing](p, "left"), "all", func(*framework.Event[thing]) bool { return true }), "paired")
	a := start(t, b, openStore(t, t.TempDir()), p)
	a.assignAll()
	awaitAll(t, b, "left")
	a.end()
	if got := ids(b.Records("paired")); !slices.Equal(firsts(got), ids(records)) {
		t.Errorf("sent: %q", got)
	}
}

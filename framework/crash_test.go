package framework_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/file"
)

// The crash tests run one pipeline over one input, break it at a point, and look at what is on disk: the state must
// be the fold of the input up to the position beside it. Then it goes on, and is broken again. At the end all
// outputs must be those of a run that nothing disturbed.
//
//	orders (2 partitions) → check (some fail) → sums (a table)  → counts (in the store)
//	                                          → kept (history) → expired (timers) → lines (relay, cannot be cut back)
//	                                          → by-amount (re-key) → total-sums (a table)
//	                                                               → totals (relay to a file)

const (
	crashEvents = 3000
	crashBatch  = 20
)

func crashRecords() [][]framework.Record {
	parts := make([][]framework.Record, 2)
	for _, r := range thingRecords(crashEvents, 37, time.Second) {
		p := framework.Partition(r.Key, 2)
		parts[p] = append(parts[p], r)
	}
	return parts
}

func fails(n int) bool { return n%17 == 5 }

func crashPipeline() *framework.Pipeline {
	p := framework.NewPipeline("crash")
	checked := processors.Map(framework.From[thing](p, "orders"), "check", func(e *framework.Event[thing]) (thing, error) {
		if fails(e.Data.N) {
			return thing{}, errors.New("seventeen")
		}
		return e.Data, nil
	})
	sum := func(sum int, e *framework.Event[thing]) (int, error) { return sum + e.Data.N, nil }
	framework.To(processors.Fold(checked, "sums", 0, sum), "counts")
	kept := processors.Collect(checked, "kept", processors.CollectConfig{Retain: 5 * time.Minute})
	framework.To(processors.Expire(kept, "expired", 2*time.Minute,
		func(h framework.View[thing], e *framework.Event[thing]) (string, bool, error) {
			return fmt.Sprint(e.Data.N, " among ", h.Len()), true, nil
		}), "lines")
	again := processors.ReKey(checked, "by-amount", func(e *framework.Event[thing]) string { return fmt.Sprint(e.Data.N % 5) })
	framework.To(again, "totals")
	processors.Fold(again, "total-sums", 0, sum)
	return p
}

// lines is a sink of which nothing is known but what was written: a line for each record, with its id.
type lines struct{ path string }

func (l lines) Topic(context.Context, string) (framework.TopicInfo, error) {
	return framework.TopicInfo{Partitions: 1}, nil
}

func (l lines) Subscriber(framework.SubscriberConfig) (message.Subscriber, error) {
	return nil, errors.New("a sink is not read")
}

func (l lines) Publisher(framework.PublisherConfig) (framework.Publisher, error) { return l, nil }

func (l lines) Publish(_ context.Context, _ string, records []framework.Record) error {
	var b bytes.Buffer
	for _, r := range records {
		fmt.Fprintf(&b, "%s %s %s\n", r.ID, r.Key, r.Value)
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	return errors.Join(err, f.Close())
}

func (l lines) Close() error { return nil }

// crashRun runs the pipeline in dir until it ends. A source without positions delivers all of its records each time.
func crashRun(store *microstore.Store, dir string, positions bool, lanes, batch int) error {
	topics, err := embedded.New(store, embedded.Config{Partitions: 1})
	if err != nil {
		return err
	}
	files, err := file.New(file.Config{Outputs: map[string]file.Output{"totals": {Path: filepath.Join(dir, "totals.jsonl")}}})
	if err != nil {
		return err
	}
	feed := framework.NewFeed(map[string][][]framework.Record{"orders": crashRecords()})
	feed.Bounded, feed.Unpositioned = true, !positions
	runner, err := framework.New(framework.Config{
		Store: store, Transport: topics, Lanes: lanes, BatchEvents: batch, InternalPartitions: 2, BacklogBytes: 500,
		Routes: map[string]framework.Transport{"orders": feed, "totals": files, "lines": lines{filepath.Join(dir, "lines")}},
	}, crashPipeline())
	if err != nil {
		return err
	}
	return runner.Run(context.Background())
}

func openCrashStore(dir string) (*microstore.Store, error) {
	return microstore.Open(microstore.Config{Dir: filepath.Join(dir, "store"), GCInterval: -1, MemoryBytes: 64 << 20})
}

// TestCrashChild is the process that dies; it is no test.
func TestCrashChild(t *testing.T) {
	dir, point := os.Getenv("FRAMEWORK_CRASH_DIR"), os.Getenv("FRAMEWORK_CRASH_POINT")
	if dir == "" {
		t.Skip("run by TestKill")
	}
	store, err := openCrashStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	name, nth, _ := strings.Cut(point, " ")
	if n, err := strconv.ParseInt(nth, 10, 64); err == nil {
		failpoint.Crash(name, n)
	}
	positions := os.Getenv("FRAMEWORK_CRASH_POSITIONS") == "true"
	if err := errors.Join(crashRun(store, dir, positions, 2, crashBatch), store.Close()); err != nil {
		t.Fatal(err)
	}
}

// crashResult is what is left at the end.
type crashResult struct {
	counts, faults, lines, totals map[string]string // by id
	perKey                        map[string][]string
}

func resultOf(t *testing.T, dir string, exact bool) (r crashResult) {
	t.Helper()
	store, err := openCrashStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	topics := topicsIn(t, store)
	r.counts, r.faults, r.lines, r.totals, r.perKey = map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}, map[string][]string{}
	for topic, m := range map[string]map[string]string{"counts": r.counts, "crash.faults": r.faults} {
		for _, record := range readTopic(t, topics, topic) {
			if m[record.ID] != "" {
				t.Errorf("topic %s has id %s twice", topic, record.ID)
			}
			m[record.ID] = record.Key + " " + string(record.Value)
			r.perKey[topic+"/"+record.Key] = append(r.perKey[topic+"/"+record.Key], record.ID)
		}
	}
	twice := 0
	for _, line := range readLines(t, filepath.Join(dir, "lines")) {
		id, rest, _ := strings.Cut(line, " ")
		if was := r.lines[id]; was != "" {
			if twice++; was != rest {
				t.Errorf("id %s is of %s and of %s", id, was, rest)
			}
			continue
		}
		r.lines[id] = rest
		key, _, _ := strings.Cut(rest, " ")
		r.perKey["lines/"+key] = append(r.perKey["lines/"+key], id)
	}
	t.Logf("%d lines, %d of them again", len(r.lines)+twice, twice)
	if exact && twice > 0 {
		t.Errorf("%d lines twice in a run that nothing disturbed", twice)
	}
	for i, line := range readLines(t, filepath.Join(dir, "totals.jsonl")) {
		r.totals[fmt.Sprint(i)] = line
	}
	for _, name := range []string{"lines", "totals"} {
		outbox, err := store.Outbox(name)
		if err != nil {
			t.Fatal(err)
		}
		if rows, _ := outbox.Backlog(); rows > 0 {
			t.Errorf("%d rows of %s were not sent", rows, name)
		}
	}
	return r
}

func readLines(t *testing.T, path string) (all []string) {
	t.Helper()
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		all = append(all, s.Text())
	}
	return all
}

func compareResults(t *testing.T, got, want crashResult) {
	t.Helper()
	if !maps.Equal(got.counts, want.counts) {
		t.Errorf("counts: %d of %d, or others", len(got.counts), len(want.counts))
	}
	if !maps.Equal(got.faults, want.faults) {
		t.Errorf("faults: %d of %d, or others", len(got.faults), len(want.faults))
	}
	if !maps.Equal(got.lines, want.lines) {
		t.Errorf("lines: %d of %d, or others", len(got.lines), len(want.lines))
	}
	// The order in which two partitions are re-keyed to one is open, so these are compared as a set.
	if a, b := slices.Sorted(maps.Values(got.totals)), slices.Sorted(maps.Values(want.totals)); !slices.Equal(a, b) {
		t.Errorf("totals: %d, want %d, or others", len(a), len(b))
	}
	for name := range want.perKey {
		if strings.HasPrefix(name, "crash.faults") {
			continue
		}
		if !slices.Equal(got.perKey[name], want.perKey[name]) {
			t.Errorf("%s: another order", name)
		}
	}
}

// verifyState compares the state on disk with the fold of the input up to the position on disk, or with that of the
// events whose ids are there, which are the first ones.
func verifyState(t *testing.T, dir string, positions bool) (position int64) {
	t.Helper()
	store, err := openCrashStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	topics := topicsIn(t, store)
	byAmount, counted, remembered := 0, 0, int64(0)
	for p, records := range crashRecords() {
		name := fmt.Sprintf("crash/orders/%d", p)
		at, err := storedPosition(store, name, positions, records)
		if err != nil {
			t.Fatal(err)
		}
		position += at
		if !positions {
			remembered += at
		}
		ended := at == int64(len(records))
		sums, kept, latest := map[string]string{}, map[string]time.Time{}, time.Time{}
		numbers := map[string]int{}
		for _, r := range records[:at] {
			var v thing
			if err := json.Unmarshal(r.Value, &v); err != nil {
				t.Fatal(err)
			}
			latest = r.Time
			if fails(v.N) {
				continue
			}
			numbers[r.Key] += v.N
			sums[r.Key] = fmt.Sprint(numbers[r.Key])
			kept[r.ID] = r.Time
			byAmount++
		}
		counted += len(kept)
		task, err := store.Task(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := tableOf(t, task, "sums.value"); !maps.Equal(got, sums) {
			t.Errorf("%s at %d: sums %v, want %v", name, at, got, sums)
		}
		history, err := task.History("kept.events", microstore.HistoryConfig{})
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		err = history.All(func(_, _ string, e *microstore.Entry) bool {
			if time.Unix(0, e.Time).After(latest) {
				t.Errorf("%s at %d: an event of %v", name, at, time.Unix(0, e.Time).UTC())
			}
			found++
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		expect := 0
		for _, at := range kept {
			if at.After(latest.Add(-5*time.Minute)) && !ended { // at the end all expire
				expect++
			}
		}
		if found < expect || found > len(kept) {
			t.Errorf("%s at %d: %d events kept, want %d, and at most %d that are not swept yet", name, at, found, expect, len(kept))
		}
	}
	if report, err := store.Verify(t.Context()); err != nil || report.Processed != remembered {
		t.Errorf("%d processed ids are on disk, want each of %d once: %v", report.Processed, remembered, err)
	}
	if info, err := topics.Topic(t.Context(), "crash.by-amount"); err == nil && info.Size > 0 {
		if got := len(readTopic(t, topics, "crash.by-amount")); got != byAmount {
			t.Errorf("%d events were re-keyed, want %d", got, byAmount)
		}
		for p := range info.Partitions {
			name := fmt.Sprintf("crash/crash.by-amount/%d", p)
			at, err := framework.StoredPosition(store, name, "crash.by-amount")
			if err != nil {
				t.Fatal(err)
			}
			numbers, sums := map[string]int{}, map[string]string{}
			_, err = topics.Read(t.Context(), "crash.by-amount", p, 0, func(r framework.Record) error {
				var v thing
				if r.Offset < at && !r.Watermark {
					if err := json.Unmarshal(r.Value, &v); err != nil {
						return err
					}
					numbers[r.Key] += v.N
					sums[r.Key] = fmt.Sprint(numbers[r.Key])
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			task, err := store.Task(name)
			if err != nil {
				t.Fatal(err)
			}
			if got := tableOf(t, task, "total-sums.value"); !maps.Equal(got, sums) {
				t.Errorf("%s at %d: totals %v, want %v", name, at, got, sums)
			}
		}
	}
	if info, err := topics.Topic(t.Context(), "counts"); err == nil && info.Size > 0 {
		if got := len(readTopic(t, topics, "counts")); got != counted {
			t.Errorf("%d counts sent, want %d", got, counted)
		}
	}
	return position
}

func storedPosition(store *microstore.Store, name string, positions bool, records []framework.Record) (int64, error) {
	if positions {
		return framework.StoredPosition(store, name, "orders")
	}
	ids := make([]string, len(records))
	for i := range records {
		ids[i] = records[i].ID
	}
	n, all, err := framework.StoredProcessed(store, name, "orders", ids)
	if err == nil && !all {
		err = fmt.Errorf("%s: the %d processed ids are not those of the first events", name, n)
	}
	return int64(n), err
}

func tableOf(t *testing.T, task *microstore.Task, name string) map[string]string {
	t.Helper()
	table, err := task.Table(name)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	if err := table.All(func(key string, value []byte) bool { all[key] = string(value); return true }); err != nil {
		t.Fatal(err)
	}
	return all
}

var undisturbed = struct {
	done   bool
	result crashResult
}{}

func reference(t *testing.T) crashResult {
	t.Helper()
	if !undisturbed.done {
		dir := t.TempDir()
		store, err := openCrashStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(crashRun(store, dir, true, 1, 1000), store.Close()); err != nil {
			t.Fatal(err)
		}
		verifyState(t, dir, true)
		undisturbed.result, undisturbed.done = resultOf(t, dir, true), true
		if len(undisturbed.result.lines) < 2000 || len(undisturbed.result.totals) < 2000 || len(undisturbed.result.faults) != 177 {
			t.Fatalf("%d lines, %d totals, %d faults", len(undisturbed.result.lines), len(undisturbed.result.totals), len(undisturbed.result.faults))
		}
	}
	return undisturbed.result
}

var crashPoints = []string{
	"task.batch", "task.full", "commit.before", "commit.after", "ack.before", "ack.after",
	"release.before", "release.after", "release.forgotten", "store.commit.before", "store.commit.after",
}

// TestKill kills a child at each point, with kill -9, at varying counts, on the same directory.
func TestKill(t *testing.T) {
	for _, positions := range []bool{true, false} {
		t.Run(fmt.Sprint("positions=", positions), func(t *testing.T) { killAtEachPoint(t, positions) })
	}
}

func killAtEachPoint(t *testing.T, positions bool) {
	want := reference(t)
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var points []string
	for _, point := range crashPoints {
		points = append(points, point+" 1", fmt.Sprint(point, " ", 2+random.IntN(9)))
	}
	points = append(points, "release.after 1") // and first of all, when nothing is known of the sinks
	slices.Reverse(points)
	random.Shuffle(len(points)-1, func(i, j int) { points[i+1], points[j+1] = points[j+1], points[i+1] })
	last := int64(0)
	child := func(point string) error {
		c := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
		c.Env = append(os.Environ(), "FRAMEWORK_CRASH_DIR="+dir, "FRAMEWORK_CRASH_POINT="+point,
			fmt.Sprint("FRAMEWORK_CRASH_POSITIONS=", positions))
		out, err := c.CombinedOutput()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() != -1 {
			t.Fatalf("%s: %v\n%s", point, err, out)
		}
		return err
	}
	killed := 0
	for _, point := range points {
		if child(point) != nil {
			killed++
		}
		at := verifyState(t, dir, positions)
		if at < last {
			t.Errorf("%s: position %d after %d", point, at, last)
		}
		last = at
		if t.Failed() {
			t.Fatal("after ", point)
		}
	}
	t.Logf("%d of %d killed, at %d of %d", killed, len(points), last, crashEvents)
	if killed < len(points)/2 {
		t.Errorf("only %d of %d children were killed", killed, len(points))
	}
	if err := child(""); err != nil {
		t.Fatal(err)
	}
	verifyState(t, dir, positions)
	compareResults(t, resultOf(t, dir, false), want)
}

// TestErrorAtEachPoint makes each point fail with an error. The run ends with it; the next goes on, over the same
// open store where that is sound.
func TestErrorAtEachPoint(t *testing.T) {
	for _, positions := range []bool{true, false} {
		for _, reopen := range []bool{false, true} {
			t.Run(fmt.Sprintf("positions=%v,reopen=%v", positions, reopen), func(t *testing.T) { failAtEachPoint(t, positions, reopen) })
		}
	}
}

func failAtEachPoint(t *testing.T, positions, reopen bool) {
	want := reference(t)
	broken := errors.New("broken")
	dir := t.TempDir()
	store, err := openCrashStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, point := range append(crashPoints, "") {
		var hits atomic.Int64
		disarm := failpoint.Arm(point, func() error {
			if hits.Add(1) == int64(1+i%4*2) {
				return broken
			}
			return nil
		})
		err := crashRun(store, dir, positions, 1+i%4, crashBatch)
		disarm()
		if ok := point == ""; ok && err != nil || !ok && !errors.Is(err, broken) {
			t.Fatalf("%s: %v", point, err)
		}
		if !reopen && !strings.HasPrefix(point, "store.") && point != "" {
			continue
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		verifyState(t, dir, positions)
		if store, err = openCrashStore(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	compareResults(t, resultOf(t, dir, false), want)
}

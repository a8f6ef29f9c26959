package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/transporttest"
)

// known are goroutines that Badger's libraries start once for a process.
var known = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
	goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"),
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m, known...)
}

func store(t testing.TB, config microstore.Config) *microstore.Store {
	t.Helper()
	config.MemoryBytes = 32 << 20
	s, err := microstore.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func open(t testing.TB, s *microstore.Store, config embedded.Config) *embedded.Transport {
	t.Helper()
	transport, err := embedded.New(s, config)
	must(t, err)
	return transport
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTransport(t *testing.T) {
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		dir := t.TempDir()
		s := store(t, microstore.Config{Dir: dir})
		return transporttest.Fixture{
			Transport: open(t, s, embedded.Config{}),
			Restart: func(t testing.TB) framework.Transport {
				must(t, s.Close())
				s = store(t, microstore.Config{Dir: dir})
				return open(t, s, embedded.Config{})
			},
		}
	}, transporttest.Features{})
}

func TestPubSub(t *testing.T) {
	for _, test := range []struct {
		name       string
		partitions int
		features   tests.Features
	}{
		{"one partition", 1, tests.Features{GuaranteedOrder: true}},
		{"four partitions", 4, tests.Features{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			transport := open(t, store(t, microstore.Config{Dir: t.TempDir()}),
				embedded.Config{Partitions: test.partitions, AutoCreate: true})
			inGroup := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
				subscriber := transport.PubSub(group)
				t.Cleanup(func() { _ = subscriber.Close() }) // the suite forgets some
				return transport.PubSub(group), subscriber
			}
			test.features.ConsumerGroups = true
			test.features.Persistent = true
			test.features.ForceShort = testing.Short()
			tests.TestPubSub(t, test.features, func(t *testing.T) (message.Publisher, message.Subscriber) {
				return inGroup(t, "tests")
			}, inGroup)
		})
	}
}

func TestPubSubWithoutGroupReceivesOldMessages(t *testing.T) {
	transport := open(t, store(t, microstore.Config{InMemory: true}), embedded.Config{AutoCreate: true})
	tests.TestNewSubscriberReceivesOldMessages(t,
		tests.TestContext{TestID: tests.NewTestID(), Features: tests.Features{NewSubscriberReceivesOldMessages: true}},
		func(*testing.T) (message.Publisher, message.Subscriber) {
			return transport.PubSub(""), transport.PubSub("")
		})
}

// What a group has acknowledged is not delivered again after a restart.
func TestGroupGoesOnAfterRestart(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		s := store(t, microstore.Config{Dir: dir})
		transport := open(t, s, embedded.Config{Partitions: 1, AutoCreate: true})
		if round == 0 {
			must(t, publish(transport, "events", numbered(0, 30)))
		}
		face := transport.PubSub("group")
		messages, err := face.Subscribe(t.Context(), "events")
		must(t, err)
		for i := range 10 {
			msg := <-messages
			if want := fmt.Sprint(round*10 + i); string(msg.Payload) != want {
				t.Fatalf("got %s, expected %s", msg.Payload, want)
			}
			msg.Ack()
			<-msg.Context().Done()
		}
		must(t, face.Close())
		must(t, s.Close())
	}
}

func numbered(from, n int) []framework.Record {
	records := make([]framework.Record, n)
	for i := range records {
		records[i] = framework.Record{
			Key: "k", Value: fmt.Append(nil, from+i), Time: time.Unix(int64(from+i), 0),
		}
	}
	return records
}

func publish(transport framework.Transport, topic string, records []framework.Record) error {
	p, err := transport.Publisher(framework.PublisherConfig{})
	if err != nil {
		return err
	}
	return p.Publish(context.Background(), topic, records)
}

// read reads a partition and checks that it ended at the end.
func read(transport *embedded.Transport, topic string, partition int, from int64, fn func(framework.Record) error) error {
	next, err := transport.Read(context.Background(), topic, partition, from, fn)
	if err != nil {
		return err
	}
	_, end, err := transport.Bounds(topic, partition)
	if err == nil && next != end {
		err = fmt.Errorf("reading ended at %d, the end is %d", next, end)
	}
	return err
}

// Records that are appended to a commit are there exactly when the commit is.
func TestAppendIsPartOfTheCommit(t *testing.T) {
	s := store(t, microstore.Config{InMemory: true})
	transport := open(t, s, embedded.Config{})
	must(t, transport.CreateTopic(t.Context(), "events", 2))
	b := s.NewBatch()
	must(t, transport.Append(b, "events", 1, numbered(0, 3)))
	must(t, transport.Append(b, "events", 1, nil))
	if _, end, _ := transport.Bounds("events", 1); end != 0 {
		t.Fatal("records are visible before their commit")
	}
	b.Rollback(microstore.Mark{})
	must(t, transport.Append(b, "events", 1, numbered(10, 2)))
	must(t, s.Commit(t.Context(), b))
	var got []string
	must(t, read(transport, "events", 1, 0, func(r framework.Record) error {
		got = append(got, fmt.Sprintf("%d:%s", r.Offset, r.Value))
		return nil
	}))
	if strings.Join(got, " ") != "0:10 1:11" {
		t.Errorf("got %v", got)
	}
	if err := transport.Append(s.NewBatch(), "events", 2, numbered(0, 1)); err == nil {
		t.Error("partition 2 of 2 was accepted")
	}
	if err := transport.Append(s.NewBatch(), "nowhere", 0, nil); !errors.Is(err, framework.ErrNoTopic) {
		t.Errorf("appending to a topic that is not there: %v", err)
	}
}

func TestReadFromOffsetAndTime(t *testing.T) {
	transport := open(t, store(t, microstore.Config{InMemory: true}), embedded.Config{Partitions: 1, AutoCreate: true})
	for i := range 10 {
		must(t, publish(transport, "events", numbered(i*10, 10)))
	}
	offset, err := transport.OffsetAt("events", 0, time.Unix(55, 0))
	must(t, err)
	if offset != 50 {
		t.Errorf("offset at 55 s is %d, expected that of its chunk, 50", offset)
	}
	if offset, _ = transport.OffsetAt("events", 0, time.Unix(1000, 0)); offset != 100 {
		t.Errorf("offset at a time after all is %d", offset)
	}
	n := int64(57)
	must(t, read(transport, "events", 0, n, func(r framework.Record) error {
		if r.Offset != n || string(r.Value) != fmt.Sprint(n) {
			t.Fatalf("got %d:%s, expected %d", r.Offset, r.Value, n)
		}
		n++
		return nil
	}))
	if n != 100 {
		t.Errorf("reading ended at %d", n)
	}
	stop := errors.New("stop")
	if err := read(transport, "events", 0, 0, func(framework.Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the function's error came as %v", err)
	}
	for _, err := range []error{
		read(transport, "nowhere", 0, 0, nil), read(transport, "events", 7, 0, nil),
	} {
		if err == nil {
			t.Error("reading what is not there gave no error")
		}
	}
}

func TestPositionsThatAreGone(t *testing.T) {
	s := store(t, microstore.Config{InMemory: true})
	transport := open(t, s, embedded.Config{Partitions: 1, AutoCreate: true})
	for i := range 10 {
		must(t, publish(transport, "events", numbered(i*10, 10)))
	}
	log, err := s.Log("embedded/events/0")
	must(t, err)
	must(t, log.Trim(50))
	for position, want := range map[int64]string{20: "the oldest record kept is 50", 101: "of another store"} {
		subscriber, _ := transport.Subscriber(framework.SubscriberConfig{
			Start: func(string, int) (int64, bool) { return position, true },
		})
		if _, err := subscriber.Subscribe(t.Context(), "events"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("from %d: %v, expected %q", position, err, want)
		}
		must(t, subscriber.Close())
	}
}

// A chunk that cannot be decoded ends reading with an error, behind the records before it.
func TestDamagedChunk(t *testing.T) {
	s := store(t, microstore.Config{InMemory: true})
	transport := open(t, s, embedded.Config{Partitions: 1, AutoCreate: true})
	must(t, publish(transport, "events", numbered(0, 2)))
	log, err := s.Log("embedded/events/0")
	must(t, err)
	b := s.NewBatch()
	log.Append(b, 3, 0, 0, []byte("junk"))
	must(t, s.Commit(t.Context(), b))
	if err := read(transport, "events", 0, 0, func(framework.Record) error { return nil }); !errors.Is(err, embedded.ErrDamaged) {
		t.Errorf("Read: %v", err)
	}
	subscriber, _ := transport.Subscriber(framework.SubscriberConfig{BatchBytes: 1, InFlight: 5})
	defer subscriber.Close()
	messages, err := subscriber.Subscribe(t.Context(), "events")
	must(t, err)
	for want := range int64(2) {
		if b, _ := framework.BatchOf(<-messages); b.Next != want+1 || b.Records[0].Err != nil {
			t.Fatalf("%+v, expected record %d", b, want)
		}
	}
	batch, _ := framework.BatchOf(<-messages)
	if err := batch.Records[0].Err; batch.Next != 2 || !errors.Is(err, embedded.ErrDamaged) || framework.ClassOf(err) != framework.ClassFatal {
		t.Errorf("%+v", batch)
	}
}

func TestConfig(t *testing.T) {
	_, err := embedded.New(store(t, microstore.Config{InMemory: true}), embedded.Config{Partitions: -1, RetainAge: -1})
	if err == nil || !strings.Contains(err.Error(), "Partitions is -1") || !strings.Contains(err.Error(), "RetainAge is -1") {
		t.Error(err)
	}
	if _, err := embedded.New(nil, embedded.Config{}); err == nil {
		t.Error("no store, no error")
	}
}

func ExampleTransport_Read() {
	store, err := microstore.Open(microstore.Config{InMemory: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	ctx := context.Background()
	transport, _ := embedded.New(store, embedded.Config{})
	_ = transport.CreateTopic(ctx, "orders", 1)

	commit := store.NewBatch() // of an engine, with its state
	_ = transport.Append(commit, "orders", 0, []framework.Record{{ID: "o1", Value: []byte("first")}, {ID: "o2", Value: []byte("second")}})
	_ = store.Commit(ctx, commit)

	next, err := transport.Read(ctx, "orders", 0, 0, func(r framework.Record) error {
		fmt.Println(r.Offset, r.ID, string(r.Value))
		return nil
	})
	fmt.Println("go on at", next, err)
	// Output:
	// 0 o1 first
	// 1 o2 second
	// go on at 2 <nil>
}

const childVariable = "MILLRACE_EMBEDDED_TEST_CHILD"

// child publishes numbered records without end and says so on standard output.
func child(dir string) {
	s, err := microstore.Open(microstore.Config{Dir: dir, MemoryBytes: 32 << 20})
	if err != nil {
		panic(err)
	}
	transport, err := embedded.New(s, embedded.Config{Partitions: 1, AutoCreate: true})
	if err != nil {
		panic(err)
	}
	next := 0
	info, err := transport.Topic(context.Background(), "events")
	if err != nil {
		panic(err)
	}
	for next = int(info.Size); ; next += 10 {
		if err := publish(transport, "events", numbered(next, 10)); err != nil {
			panic(err)
		}
		if _, err := os.Stdout.Write([]byte{'.'}); err != nil {
			return
		}
	}
}

// A child is killed while it publishes: what it has published is there, and nothing is torn.
func TestPublishedRecordsSurviveKill(t *testing.T) {
	dir := t.TempDir()
	published := 0
	for round := range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVariable+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		for range 20 + 17*round {
			if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
				t.Fatalf("the child gave up: %v", err)
			}
			published += 10
		}
		must(t, cmd.Process.Kill())
		rest, _ := io.ReadAll(out)
		published += 10 * len(rest)
		_ = cmd.Wait()

		s := store(t, microstore.Config{Dir: dir})
		transport := open(t, s, embedded.Config{})
		found := 0
		must(t, read(transport, "events", 0, 0, func(r framework.Record) error {
			if string(r.Value) != fmt.Sprint(found) {
				t.Fatalf("record %d is %s", found, r.Value)
			}
			found++
			return nil
		}))
		if found < published || found > published+10 {
			t.Fatalf("%d records are there, %d were published", found, published)
		}
		published = found // the last one may have been committed without being reported
		must(t, s.Close())
	}
}

// TestKeptTopic releases what was read and nothing else; what it is survives a restart.
func TestKeptTopic(t *testing.T) {
	store, err := microstore.Open(microstore.Config{Dir: t.TempDir()})
	must(t, err)
	defer func() { must(t, store.Close()) }()
	ctx := context.Background()
	first, err := embedded.New(store, embedded.Config{RetainBytes: 1})
	must(t, err)
	must(t, first.CreateKept(ctx, "kept", 1))
	topics, err := embedded.New(store, embedded.Config{RetainBytes: 1}) // as after a restart
	must(t, err)
	must(t, topics.CreateKept(ctx, "kept", 1))
	if err := topics.CreateKept(ctx, "kept", 2); err == nil {
		t.Error("the topic was made again with other partitions")
	}
	for i := range 10 {
		b := store.NewBatch()
		must(t, topics.Append(b, "kept", 0, []framework.Record{{ID: fmt.Sprint(i)}}))
		must(t, store.Commit(ctx, b))
	}
	bounds := func(wantStart int64) {
		t.Helper()
		start, end, err := topics.Bounds("kept", 0)
		must(t, err)
		if start != wantStart || end != 10 {
			t.Errorf("records %d to %d, want %d to 10", start, end, wantStart)
		}
	}
	bounds(0)
	must(t, topics.Release("kept", 0, 4))
	bounds(4)
	must(t, topics.Release("kept", 0, 2))
	bounds(4)
}

// A directory is all that a pipeline needs: the transport that Open makes brings the store.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	topics, err := embedded.Open(dir, embedded.Config{AutoCreate: true})
	must(t, err)
	if _, err := embedded.Open(dir, embedded.Config{}); !errors.Is(err, microstore.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if _, err := embedded.Open(dir, embedded.Config{Partitions: -1}); err == nil || !strings.Contains(err.Error(), "Partitions") {
		t.Errorf("a config that cannot be used: %v", err)
	}
	p := framework.NewPipeline("copy")
	framework.To(framework.From[string](p, "in"), "out")
	publisher, err := topics.Publisher(framework.PublisherConfig{})
	must(t, err)
	must(t, publisher.Publish(t.Context(), "in", []framework.Record{{ID: "1", Value: []byte(`"hello"`)}}))

	ctx, stop := context.WithCancel(t.Context())
	runner, err := framework.New(framework.Config{Transport: topics, Hooks: []framework.Hook{stopAfter{1, stop}}}, p)
	must(t, err)
	must(t, runner.Run(ctx))
	if _, end, err := topics.Bounds("out", framework.Partition("1", 4)); err != nil || end != 1 {
		t.Errorf("%d records came out: %v", end, err)
	}
	must(t, topics.Close())
	must(t, topics.Close())
	again, err := embedded.Open(dir, embedded.Config{})
	must(t, err)
	must(t, again.Close())
}

// stopAfter stops a run when a commit has so many events.
type stopAfter struct {
	events int
	stop   func()
}

func (s stopAfter) OnCommit(i framework.CommitInfo) {
	if i.Events >= s.events {
		s.stop()
	}
}

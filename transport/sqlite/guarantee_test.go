package sqlite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/address"
)

// childVariable holds the path of the database that a child writes to until it is killed.
const childVariable = "MILLRACE_TEST_SQLITE"

func numbered(key string, from, to int) (records []framework.Record) {
	for i := from; i < to; i++ {
		records = append(records, framework.Record{ID: fmt.Sprint(key, "-", i), Key: key, Value: fmt.Append(nil, i)})
	}
	return records
}

// child publishes ten records at a time, and says so when Publish has returned.
func child(path string) error {
	transport, err := Open(context.Background(), path, Config{})
	if err != nil {
		return err
	}
	p, err := transport.Publisher(framework.PublisherConfig{})
	for i := 0; err == nil; i += 10 {
		if err = p.Publish(context.Background(), "events", numbered("k", i, i+10)); err == nil {
			fmt.Println(i + 10)
		}
	}
	return err
}

// What Publish has returned for is there after kill -9, whole and in order.
func TestPublishedRecordsSurviveKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "topics.db")
	must(t, open(t, path).CreateTopic(t.Context(), "events", 1))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+path)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	published := 0
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if _, err := fmt.Sscan(lines.Text(), &published); err != nil {
			t.Errorf("%q: %v", lines.Text(), err)
		}
		if published == 300 {
			must(t, cmd.Process.Kill())
		}
	}
	if err := cmd.Wait(); err == nil || published < 300 {
		t.Fatalf("the child ended after %d: %v", published, err)
	}
	got := values(t, open(t, path), "events")
	if len(got) < published || len(got)%10 != 0 {
		t.Errorf("%d records, and %d were published, ten at a time", len(got), published)
	}
	for i := range got {
		if got[i] != fmt.Sprint(i) {
			t.Fatalf("record %d is %s", i, got[i])
		}
	}
}

func values(t testing.TB, transport *Transport, topic string) (all []string) {
	t.Helper()
	info, err := transport.Topic(t.Context(), topic)
	must(t, err)
	for partition := range info.Partitions {
		_, err := transport.Read(t.Context(), topic, partition, 0, func(r framework.Record) error {
			all = append(all, string(r.Value))
			return nil
		})
		must(t, err)
	}
	return all
}

// Several programs write one topic at the same time, here as transports of their own, and one reads it.
func TestSeveralPrograms(t *testing.T) {
	const writers, each = 4, 200
	path := filepath.Join(t.TempDir(), "topics.db")
	reads := open(t, path)
	must(t, reads.CreateTopic(t.Context(), "events", 2))
	subscriber, err := reads.Subscriber(framework.SubscriberConfig{BatchEvents: 100, BatchBytes: 1 << 20, InFlight: 2})
	must(t, err)
	defer func() { must(t, subscriber.Close()) }()
	messages, err := subscriber.Subscribe(t.Context(), "events")
	must(t, err)
	var running sync.WaitGroup
	for w := range writers {
		p, err := open(t, path).Publisher(framework.PublisherConfig{})
		must(t, err)
		running.Go(func() {
			for i := 0; i < each; i += 10 {
				if err := p.Publish(t.Context(), "events", numbered(fmt.Sprint("w", w), i, i+10)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	defer running.Wait()
	next := map[string]int{}
	patience := time.After(60 * time.Second)
	for n := 0; n < writers*each; {
		select {
		case msg := <-messages:
			b, _ := framework.BatchOf(msg)
			for _, r := range b.Records {
				if string(r.Value) != fmt.Sprint(next[r.Key]) {
					t.Fatalf("%s is at %d, and %s comes", r.Key, next[r.Key], r.Value)
				}
				next[r.Key]++
				n++
			}
			msg.Ack()
		case <-patience:
			t.Fatalf("%d of %d records came", n, writers*each)
		}
	}
}

func TestPositionsThatAreGone(t *testing.T) {
	transport := open(t, filepath.Join(t.TempDir(), "topics.db"))
	must(t, transport.CreateTopic(t.Context(), "events", 1))
	p, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	must(t, p.Publish(t.Context(), "events", numbered("k", 0, 20)))
	must(t, transport.Release("events", 0, 20))
	must(t, p.Publish(t.Context(), "events", numbered("k", 20, 30))) // positions are not given twice
	for position, want := range map[int64]string{5: "the oldest record kept is 20", 31: "it ends at 30"} {
		s, err := transport.Subscriber(framework.SubscriberConfig{Start: func(string, int) (int64, bool) { return position, true }})
		must(t, err)
		if _, err := s.Subscribe(t.Context(), "events"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("from %d: %v", position, err)
		}
		must(t, s.Close())
	}
	if start, n, bytes, err := transport.Held("events", 0, 25); start != 25 || n != 5 || bytes != 10 || err != nil {
		t.Errorf("held from 25: %d, %d records, %d bytes, %v", start, n, bytes, err)
	}

	// Records that go while they are still to be read end the reading; nothing is skipped.
	s, err := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 2, BatchBytes: 1 << 20, InFlight: 1})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	messages, err := s.Subscribe(t.Context(), "events")
	must(t, err)
	first := <-messages
	must(t, transport.Release("events", 0, 28))
	first.Ack()
	b, _ := framework.BatchOf(<-messages)
	if err := b.Records[0].Err; err == nil || framework.ClassOf(err) != framework.ClassFatal || !strings.Contains(err.Error(), "position 22 is gone") {
		t.Errorf("a record that was deleted: %+v", b.Records[0])
	}
}

// What another program has put there and cannot be read is a fault of that record.
func TestRecordsOfOthers(t *testing.T) {
	transport := open(t, filepath.Join(t.TempDir(), "topics.db"))
	must(t, transport.CreateTopic(t.Context(), "events", 1))
	p, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	must(t, p.Publish(t.Context(), "events", numbered("k", 0, 3)))
	_, err = transport.db.Exec("UPDATE millrace_topics_record SET time = 'noon' WHERE position = 0")
	must(t, err)
	_, err = transport.db.Exec("UPDATE millrace_topics_record SET metadata = '[' WHERE position = 1")
	must(t, err)
	var faults []bool
	_, err = transport.Read(t.Context(), "events", 0, 0, func(r framework.Record) error {
		faults = append(faults, r.Err != nil)
		return nil
	})
	must(t, err)
	if fmt.Sprint(faults) != "[true true false]" {
		t.Errorf("faults: %v", faults)
	}
}

// While another program holds the database Publish gives an error that passes, and adds nothing; the relay tries again.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "topics.db")
	other := open(t, path)
	must(t, other.CreateTopic(t.Context(), "events", 1))
	transport, err := Open(t.Context(), path, Config{BusyTimeout: time.Millisecond})
	must(t, err)
	defer func() { must(t, transport.Close()) }()
	p, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	held, err := other.db.BeginTx(t.Context(), nil)
	must(t, err)
	if err := p.Publish(t.Context(), "events", numbered("k", 0, 3)); err == nil || framework.ClassOf(err) == framework.ClassFatal {
		t.Errorf("while another program writes: %v", err)
	}
	must(t, held.Rollback())
	must(t, p.Publish(t.Context(), "events", numbered("k", 0, 3)))
	if got := values(t, transport, "events"); len(got) != 3 {
		t.Errorf("the topic holds %v", got)
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"sqlite:":                      "sqlite:topics.db",
		"sqlite:a.db?x=1":              "sqlite:topics.db",
		"sqlite:a.db?poll=soon":        "setting poll is \"soon\"",
		"sqlite:" + dir + "/none/a.db": dir + "/none/a.db: no such file or directory",
		"sqlite:" + dir:                dir + ": is a directory",
	} {
		if _, err := OpenAddress(t.Context(), text, address.Config{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	_, err := Open(t.Context(), "a.db", Config{Partitions: -1, PollInterval: -1, BusyTimeout: -1})
	for _, want := range []string{"sqlite: config", "Partitions is -1", "PollInterval is", "BusyTimeout is"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %s", err, want)
		}
	}
	transport, err := OpenAddress(t.Context(), "sqlite:"+filepath.Join(dir, "a?%20 b.db"), address.Config{Partitions: 7})
	if err == nil {
		t.Error("a path with a question mark is taken for settings")
	}
	transport, err = OpenAddress(t.Context(), "sqlite:"+filepath.Join(dir, "100%20 ä.db"), address.Config{Partitions: 7})
	must(t, err)
	defer func() { must(t, transport.(*Transport).Close()) }()
	if _, err := os.Stat(filepath.Join(dir, "100%20 ä.db")); err != nil {
		t.Errorf("the database is elsewhere: %v", err)
	}
	must(t, transport.(framework.TopicCreator).CreateTopic(t.Context(), "events", 0))
	if info, err := transport.Topic(t.Context(), "events"); err != nil || info.Partitions != 7 {
		t.Errorf("%+v, %v", info, err)
	}
	p, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	if err := p.Publish(t.Context(), "none", numbered("k", 0, 1)); !errors.Is(err, framework.ErrNoTopic) {
		t.Errorf("publish to a topic that is not there: %v", err)
	}
}

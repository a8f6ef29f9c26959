package kafka_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/transport/kafka"
)

// named is a member that keeps its name, and has got all partitions.
func named(t *testing.T, l *ledger, transport *kafka.Transport, partitions int) (name string) {
	t.Helper()
	var kept []string
	l.join("one", transport, func(w *worker) {
		w.keep = func(name string) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			kept = append(kept, name)
			return nil
		}
	})
	l.await("one has all", func() bool { return len(l.owners) == partitions })
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(kept) != 1 {
		t.Fatalf("names that are kept for %d partitions: %q", partitions, kept)
	}
	return kept[0]
}

// A store that was copied while its member lives: the member is put out by the next on the copy, also where the
// coordinator does not answer at once. It hears of that, loses what it had and joins anew, and all goes on.
func TestSuccessorOfOneThatLives(t *testing.T) {
	transport, cluster := opened(t, 2, func(c *kafka.Config) { c.SessionTimeout = 6 * time.Second })
	l := newLedger(t, []string{"events"})
	one := named(t, l, transport, 2)
	group, err := kadm.NewClient(client(t, cluster)).DescribeGroups(t.Context(), "g-events")
	must(t, err)
	if members := group["g-events"].Members; len(members) != 1 || members[0].MemberID != one {
		t.Fatalf("the name %q is kept, the group has %v", one, members)
	}
	asked := 0
	cluster.ControlKey(int16(kmsg.DescribeGroups), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if asked++; asked > 3 {
			return nil, nil, false
		}
		return nil, errors.New("try again"), true
	})
	copied := newLedger(t, []string{"events"}) // what the copy knows of owners: for a moment both have a partition
	copied.join("two", transport, func(w *worker) { w.last = one })
	l.await("one is put out, and joins anew", func() bool { return l.called("one lose") && len(l.owners) == 1 })
	copied.await("they share", func() bool { return len(copied.owners) == 1 })
	publish(t, transport, spreadOver(100)...)
	l.await("one processes its part", func() bool { return l.count > 0 })
	copied.await("two does", func() bool { return copied.count > 0 })
	for deadline := time.Now().Add(patience); l.processed()+copied.processed() < 100; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("of 100 records one has processed %d, and two %d", l.processed(), copied.processed())
		}
	}
}

func (l *ledger) processed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// One that may not ask for members says so when a session's time is over, and works; and it can be closed before.
func TestSuccessorThatMayNotAsk(t *testing.T) {
	for name, session := range map[string]time.Duration{"until the session ends": time.Second, "closed before": 5 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			cluster := fake(t, kfake.GroupMinSessionTimeout(time.Second))
			warned := make(warnings, 100)
			config := kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: session, Logger: slog.New(slog.NewTextHandler(warned, nil))}
			transport := open(t, config)
			must(t, transport.CreateTopic(t.Context(), "events", 2))
			asked := make(chan struct{})
			var once sync.Once
			cluster.ControlKey(int16(kmsg.DescribeGroups), func(r kmsg.Request) (kmsg.Response, error, bool) {
				cluster.KeepControl()
				once.Do(func() { close(asked) })
				response := r.ResponseKind().(*kmsg.DescribeGroupsResponse)
				group := kmsg.NewDescribeGroupsResponseGroup()
				group.Group, group.ErrorCode = "g-events", kerr.GroupAuthorizationFailed.Code
				response.Groups = append(response.Groups, group)
				return response, nil, true
			})
			l := newLedger(t, []string{"events"})
			w := l.join("one", transport, func(w *worker) {
				w.last = "a member of long ago"
				w.keep = func(string) error { return errors.New("the store is full") }
			})
			publish(t, transport, spreadOver(100)...)
			l.await("all is processed", func() bool { return l.count == 100 })
			warned.await(t, "the name of this member is not kept", "the store is full")
			if session == time.Second {
				warned.await(t, "could not be put out of the group", "not authorized", "GROUP_AUTHORIZATION_FAILED")
			}
			select {
			case <-asked:
			case <-time.After(patience):
				t.Fatal("nobody asked for the members")
			}
			w.leave()
		})
	}
}

// warnings are lines of a log.
type warnings chan string

func (w warnings) Write(line []byte) (int, error) {
	select {
	case w <- string(line):
	default: // nobody is interested in so many
	}
	return len(line), nil
}

// await waits for a line with any of these words.
func (w warnings) await(t *testing.T, what string, words ...string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line := <-w:
			if strings.Contains(line, what) && slices.ContainsFunc(words, func(word string) bool { return strings.Contains(line, word) }) {
				return
			}
		case <-deadline:
			t.Fatalf("nothing is said of %q", what)
		}
	}
}

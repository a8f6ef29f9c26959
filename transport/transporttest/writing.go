package transporttest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/framework"
)

func partitioning(s *suite) {
	topic := s.create("events")
	want := records(0, s.many(500), 100)
	s.write(topic, want)
	r := s.read(topic, config())
	for n := 0; n < len(want); {
		b, msg := r.batch()
		for i := range b.Records {
			key := b.Records[i].Key
			if p := framework.Partition(key, s.Partitions); p != b.Partition {
				s.Fatalf("key %q is in partition %d, framework.Partition says %d", key, b.Partition, p)
			}
		}
		n += len(b.Records)
		msg.Ack()
	}
}

func attributes(s *suite) {
	topic := s.create("events")
	want := []framework.Record{
		{
			ID: "id 1", Type: "order.placed", Source: "shop", Key: "käse", Value: []byte{0, 1, '\n', 0xff},
			Time:     time.Date(2026, 7, 1, 12, 0, 0, 123456789, time.UTC),
			Metadata: map[string]string{"traceparent": "00-1", "empty": ""},
			Causes:   "id 0 id 9", Step: "orders/confirmed",
		},
		{ID: "id 2", Key: "käse", Value: []byte("x"), Time: time.Date(1969, 1, 1, 0, 0, 0, 1, time.UTC)},
		{ID: "id 3", Key: "käse"},
		{ID: "id 4/" + strings.Repeat("lång/", 60), Key: "käse", Value: []byte("y")}, // longer than a UUID, as a place may be
	}
	s.write(topic, want)
	got := s.read(topic, config()).take(len(want))
	for i := range want {
		w := &want[i]
		at := slices.IndexFunc(got, func(r framework.Record) bool { return r.ID == w.ID })
		if at < 0 || !s.Unordered && at != i {
			s.Fatalf("record %s is missing, or in another place: %v", w.ID, got)
		}
		g := &got[at]
		if g.ID != w.ID || g.Type != w.Type || g.Source != w.Source || g.Key != w.Key ||
			!g.Time.Equal(w.Time) || g.Causes != w.Causes || g.Step != w.Step || string(g.Value) != string(w.Value) || g.Err != nil || g.Watermark ||
			!maps.Equal(g.Metadata, w.Metadata) {
			s.Errorf("record %d came as\n%+v, it was\n%+v", i, *g, *w)
		}
	}
}

// tombstones checks that no value and an empty one are told apart, by subscribers and by who reads outside of a run.
func tombstones(s *suite) {
	topic := s.create("events")
	want := []framework.Record{
		{ID: "1", Key: "k", Value: []byte("{}")},
		{ID: "2", Key: "k"},
		{ID: "3", Key: "k", Value: []byte{}},
		{ID: "4", Key: "k", Metadata: map[string]string{"why": "closed"}},
	}
	s.write(topic, want)
	check := func(how string, got []framework.Record) {
		s.Helper()
		for _, w := range want {
			at := slices.IndexFunc(got, func(r framework.Record) bool { return r.ID == w.ID })
			if at < 0 || got[at].Key != "k" || got[at].Err != nil || string(got[at].Value) != string(w.Value) || (got[at].Value == nil) != (w.Value == nil) {
				s.Errorf("%s: record %s is not there as it was: %+v", how, w.ID, got)
			}
		}
	}
	check("subscribed", s.read(topic, config()).take(len(want)))
	reader, ok := s.Transport.(framework.TopicReader)
	if !ok {
		return
	}
	var got []framework.Record
	_, err := reader.Read(s.Context(), topic, framework.Partition("k", s.Partitions), 0, func(r framework.Record) error {
		got = append(got, r)
		return nil
	})
	s.must(err)
	check("read", got)
}

// noTombstones checks that who cannot carry a record without a value refuses it before the commit.
func noTombstones(s *suite) {
	checker, ok := s.Transport.(framework.RecordChecker)
	if !ok {
		s.Fatal("a transport that cannot carry records without a value has to be a framework.RecordChecker")
	}
	check := checker.RecordCheck(s.Context(), s.create("events"))
	for why, r := range map[string]framework.Record{"": {ID: "1", Key: "k", Value: []byte("{}")}, "no value": {ID: "2", Key: "k"}} {
		if err := check(&r); (err != nil) != (why != "") || err != nil && !strings.Contains(err.Error(), why) {
			s.Errorf("record %s: %v, expected an error about %q", r.ID, err, why)
		}
	}
}

func watermarks(s *suite) {
	topic := s.create("events")
	at := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	want := []framework.Record{
		{ID: "1", Key: "k", Value: []byte("k/1")},
		{ID: "w", Key: "k", Watermark: true, Time: at, Source: "task 3"},
		{ID: "2", Key: "k", Value: []byte("k/2")},
	}
	s.write(topic, want)
	got := s.read(topic, config()).take(len(want))
	for i := range want {
		if got[i].Watermark != want[i].Watermark || got[i].ID != want[i].ID {
			s.Fatalf("record %d came as %+v, it was %+v", i, got[i], want[i])
		}
	}
	if w := got[1]; !w.Time.Equal(at) || w.Source != "task 3" {
		s.Errorf("the watermark came as %+v", w)
	}
}

// watermarksForAll checks that a watermark without a key comes in every partition, behind what was published before it.
func watermarksForAll(s *suite) {
	topic := s.create("events")
	want := records(0, 100, 20)
	s.write(topic, append(slices.Clone(want), framework.Record{Watermark: true, Time: time.Unix(1, 0).UTC(), Source: "task 3"}))
	r := s.read(topic, config())
	got := map[int]bool{}
	for n := 0; n < len(want) || len(got) < s.Partitions; {
		b, msg := r.batch()
		for i := range b.Records {
			switch again := got[b.Partition]; {
			case again:
				s.Fatalf("partition %d goes on behind its watermark: %+v", b.Partition, b.Records[i])
			case b.Records[i].Watermark:
				got[b.Partition] = true
			default:
				n++
			}
		}
		msg.Ack()
	}
}

func concurrentPublishers(s *suite) {
	const writers = 4
	each := s.many(500)
	topic := s.create("events")
	var want []framework.Record
	var running sync.WaitGroup
	for w := range writers {
		mine := make([]framework.Record, each)
		for i := range mine {
			mine[i] = records(w*each+i, 1, 1)[0]
			mine[i].Key = string(rune('a' + w))
			mine[i].Value = append([]byte(mine[i].Key), mine[i].Value[2:]...)
		}
		want = append(want, mine...)
		publisher := s.publisher()
		running.Go(func() {
			for part := range slices.Chunk(mine, 20) {
				if err := publisher.Publish(s.Context(), topic, part); err != nil {
					s.Error(err)
				}
			}
		})
	}
	got := s.read(topic, config()).take(len(want))
	running.Wait()
	s.sameOrder(want, got)
}

// publishCancelled checks that publishing with an ended context returns, whatever it says.
func publishCancelled(s *suite) {
	topic := s.create("events")
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	p := s.publisher()
	_ = p.Publish(ctx, topic, records(0, 10, 3))
	s.must(p.Publish(s.Context(), topic, nil))
	s.must(p.Close())
	s.must(p.Close())
}

package kafka

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
)

var now = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// through is a record as it comes out at the other end.
func through(r framework.Record) framework.Record {
	var e encoder
	e.reset([]framework.Record{r}, 0)
	k := e.encode("t", &r, now)
	k.Timestamp = k.Timestamp.Truncate(time.Millisecond) // Kafka's
	return decoded(&k)
}

func decoded(k *kgo.Record) (r framework.Record) {
	new(decoder).decode(&r, k)
	return r
}

func sameRecord(a, b framework.Record) bool {
	return a.ID == b.ID && a.Type == b.Type && a.Source == b.Source && a.Key == b.Key && a.Time.Equal(b.Time) &&
		string(a.Value) == string(b.Value) && ((a.Value == nil) == (b.Value == nil) || a.Watermark) && maps.Equal(a.Metadata, b.Metadata) && a.Causes == b.Causes &&
		a.Step == b.Step && a.Watermark == b.Watermark && a.Err == nil && b.Err == nil
}

var anyText = rapid.OneOf(rapid.Just(""), rapid.String())

// anyRecord draws one without metadata.
func anyRecord(t *rapid.T) framework.Record {
	r := framework.Record{
		ID: anyText.Draw(t, "id"), Type: anyText.Draw(t, "type"), Source: anyText.Draw(t, "source"), Key: anyText.Draw(t, "key"),
		Value: rapid.SliceOf(rapid.Byte()).Draw(t, "value"), Causes: anyText.Draw(t, "causes"), Step: anyText.Draw(t, "step"),
		Watermark: rapid.Bool().Draw(t, "watermark"),
	}
	if rapid.Bool().Draw(t, "tombstone") {
		r.Value = nil
	}
	if rapid.Bool().Draw(t, "with time") {
		r.Time = time.Unix(rapid.Int64Range(-1e10, 9e9).Draw(t, "seconds"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanoseconds")).UTC()
	}
	return r
}

func TestRecordsComeThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRecord(t)
		for key := range rapid.MapOf(rapid.StringMatching(`[a-z]{1,8}`), rapid.Just(0)).Draw(t, "metadata") {
			if r.Metadata == nil {
				r.Metadata = map[string]string{}
			}
			r.Metadata["x-"+key] = anyText.Draw(t, "value of "+key)
		}
		if got := through(r); !sameRecord(got, r) {
			t.Fatalf("%+v came through as %+v", r, got)
		}
	})
}

// The headers are those of CloudEvents' Kafka binding in binary mode, the key is Kafka's, and the time is too where
// brokers take it.
func TestCloudEventsBinding(t *testing.T) {
	at := time.Date(2026, 6, 1, 1, 2, 3, 456789000, time.UTC)
	r := framework.Record{ID: "1", Type: "order.placed", Source: "/shop", Key: "k", Time: at, Metadata: map[string]string{
		"content-type": "application/json", "ce_traceparent": "00-1"}}
	var e encoder
	e.reset([]framework.Record{r}, 0)
	k := e.encode("t", &r, now)
	got := map[string]string{}
	for _, h := range k.Headers {
		got[h.Key] = string(h.Value)
	}
	want := map[string]string{
		"ce_specversion": "1.0", "ce_id": "1", "ce_type": "order.placed", "ce_source": "/shop", "ce_time": "2026-06-01T01:02:03.456789Z",
		"content-type": "application/json", "ce_traceparent": "00-1", "_watermill_message_uuid": "1",
	}
	if !maps.Equal(got, want) || string(k.Key) != "k" || !k.Timestamp.Equal(now) || k.Value != nil {
		t.Errorf("%+v with headers %v", k, got)
	}
}

// What has no value is a tombstone. An empty value is none, and neither is a watermark, in a topic that somebody has compacted.
func TestTombstones(t *testing.T) {
	for _, c := range []struct {
		record    framework.Record
		tombstone bool
	}{
		{framework.Record{Key: "k"}, true},
		{framework.Record{Key: "k", Value: []byte{}}, false},
		{framework.Record{Key: "k", Watermark: true}, false},
	} {
		var e encoder
		e.reset([]framework.Record{c.record}, 0)
		if k := e.encode("t", &c.record, now); (k.Value == nil) != c.tombstone {
			t.Errorf("%+v: value %v", c.record, k.Value)
		}
	}
}

// CloudEvents' binding has the attribute partitionkey sent beside the record's key, where an event has it, and added to none
// that has not. What an event is keyed by is its partitionkey, also when it was given another key on its way.
func TestPartitionKeyOfCloudEvents(t *testing.T) {
	long := strings.Repeat("k", 500)
	for name, test := range map[string]struct {
		in         kgo.Record
		key        func(string) string
		want, attr string
	}{
		"beside the key":    {kgo.Record{Key: []byte("k"), Headers: []kgo.RecordHeader{{Key: "ce_partitionkey", Value: []byte("k")}}}, nil, "k", "k"},
		"in place of a key": {kgo.Record{Headers: []kgo.RecordHeader{{Key: "ce_partitionkey", Value: []byte("k")}}}, nil, "k", "k"},
		"another key": {kgo.Record{Headers: []kgo.RecordHeader{{Key: "ce_partitionkey", Value: []byte("k")}}},
			func(string) string { return long }, long, long},
		"no key any more": {kgo.Record{Headers: []kgo.RecordHeader{{Key: "ce_partitionkey", Value: []byte("k")}}},
			func(string) string { return "" }, "", ""},
		"none": {kgo.Record{Key: []byte("k")}, nil, "k", ""},
	} {
		r := decoded(&test.in)
		if test.key != nil {
			r.Key = test.key(r.Key)
		}
		var e encoder
		e.reset([]framework.Record{r}, 0)
		out := e.encode("t", &r, now)
		attr, times := "", 0
		for _, h := range out.Headers {
			if h.Key == "ce_partitionkey" {
				attr = string(h.Value)
				times++
			}
		}
		if string(out.Key) != test.want || attr != test.attr || times > 1 || (times == 0) != (attr == "") {
			t.Errorf("%s: the key is %q, the attribute %q, %d times", name, out.Key, attr, times)
		}
		if most, is := bytesAtMost(&r), bytesOfBatch(&r); most < is {
			t.Errorf("%s: at most %d bytes, but it has %d", name, most, is)
		}
		if msg := framework.ToMessage(&r); msg.Metadata[framework.MetadataKey] != test.want {
			t.Errorf("%s: as a message it has the key %q", name, msg.Metadata[framework.MetadataKey])
		}
	}
}

func TestForeignRecords(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123).UTC()
	bomb := make([]kgo.RecordHeader, maxHeaders+1)
	for i := range bomb {
		bomb[i].Key = "h"
	}
	bomb[0], bomb[1] = kgo.RecordHeader{Key: "ce_id", Value: []byte("1")}, kgo.RecordHeader{Key: "ce_millracewatermark", Value: []byte("1")}
	for name, test := range map[string]struct {
		in   kgo.Record
		want framework.Record
		err  string
	}{
		"bare": {kgo.Record{Key: []byte("k"), Value: []byte("v"), Timestamp: at, Offset: 7},
			framework.Record{Key: "k", Value: []byte("v"), Time: at, Offset: 7}, ""},
		"of watermill-kafka": {
			kgo.Record{Value: []byte("v"), Timestamp: at, Headers: []kgo.RecordHeader{{Key: headerUUID, Value: []byte("uuid")}, {Key: "a", Value: []byte("b")}}},
			framework.Record{ID: "uuid", Value: []byte("v"), Time: at, Metadata: map[string]string{"a": "b"}}, ""},
		"CloudEvents with another time zone": {
			kgo.Record{Timestamp: at, Headers: []kgo.RecordHeader{{Key: "ce_id", Value: []byte("1")}, {Key: "ce_time", Value: []byte("2026-07-01T02:00:00+02:00")}}},
			framework.Record{ID: "1", Time: time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)}, ""},
		"key in a header": {kgo.Record{Timestamp: at, Headers: []kgo.RecordHeader{{Key: "ce_partitionkey", Value: []byte("k")}}},
			framework.Record{Key: "k", Time: at, Metadata: map[string]string{"ce_partitionkey": "k"}}, ""},
		"tombstone":        {kgo.Record{Key: []byte("k"), Timestamp: at}, framework.Record{Key: "k", Time: at}, ""},
		"bad time":         {kgo.Record{Headers: []kgo.RecordHeader{{Key: "ce_time", Value: []byte("yesterday")}}}, framework.Record{}, "ce_time"},
		"too many headers": {kgo.Record{Key: []byte("k"), Headers: bomb}, framework.Record{ID: "1", Key: "k"}, "1025 headers"},
		"long headers": {kgo.Record{Headers: []kgo.RecordHeader{{Key: "ce_partitionkey", Value: []byte("k")}, {Key: headerUUID, Value: []byte("1")},
			{Key: "a", Value: []byte("b")}, {Key: "x", Value: make([]byte, maxHeaderBytes)}}},
			framework.Record{ID: "1", Key: "k"}, "262144 bytes of headers"},
	} {
		got := decoded(&test.in)
		if test.err != "" {
			if got.Err == nil || !strings.Contains(got.Err.Error(), test.err) || framework.ClassOf(got.Err) != framework.ClassPermanent || len(got.Metadata) > 0 ||
				got.ID != test.want.ID || got.Key != test.want.Key || got.Watermark {
				t.Errorf("%s: id %q, key %q, %v; expected id %q, key %q and an error about %q", name, got.ID, got.Key, got.Err,
					test.want.ID, test.want.Key, test.err)
			}
			continue
		}
		if !sameRecord(got, test.want) || got.Offset != test.want.Offset {
			t.Errorf("%s: %+v, expected %+v", name, got, test.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("k"), "ce_time", []byte("2026-07-01T02:00:00Z"))
	f.Add([]byte(nil), headerUUID, []byte{0xff})
	f.Fuzz(func(t *testing.T, key []byte, name string, value []byte) {
		k := kgo.Record{Key: key, Value: value, Headers: []kgo.RecordHeader{{Key: name, Value: value}, {Key: "ce_id", Value: key}}}
		id := key
		if len(key) == 0 && name == headerUUID {
			id = value
		}
		if r := decoded(&k); r.ID != string(id) || string(r.Value) != string(value) {
			t.Errorf("%+v", r)
		}
	})
}

// An ordinary record costs one allocation for its strings and none for maps; the type and source of the one before
// are used again.
func TestDecodingIsCheap(t *testing.T) {
	r := framework.Record{ID: "id-1", Type: "order.placed", Source: "/shop", Key: "k", Time: now, Causes: "a b", Step: "p/s", Value: []byte("v")}
	var e encoder
	e.reset([]framework.Record{r}, 0)
	k := e.encode("t", &r, now)
	var d decoder
	var again framework.Record
	d.decode(&again, &k)
	if n := testing.AllocsPerRun(100, func() { again = framework.Record{}; d.decode(&again, &k) }); n > 1 {
		t.Errorf("decoding allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		e.reset([]framework.Record{r}, 0)
		e.encode("t", &r, now)
	}); n > 0 {
		t.Errorf("encoding allocates %v times", n)
	}
}

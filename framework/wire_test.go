package framework

import (
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func drawRecord(t *rapid.T) Record {
	text := rapid.String()
	r := Record{
		ID: text.Draw(t, "id"), Type: text.Draw(t, "type"), Source: text.Draw(t, "source"), Key: text.Draw(t, "key"),
		Causes: text.Draw(t, "causes"), Step: text.Draw(t, "step"),
		Value: rapid.SliceOf(rapid.Byte()).Draw(t, "value"), Watermark: rapid.Bool().Draw(t, "watermark"),
	}
	if rapid.Bool().Draw(t, "deleted") {
		r.Value = nil
	}
	if rapid.Bool().Draw(t, "timed") {
		sec := rapid.Int64Range(earliest.Unix(), latest.Unix()).Draw(t, "sec")
		r.Time = time.Unix(sec, rapid.Int64Range(0, 999_999_999).Draw(t, "nsec")).UTC()
	}
	if m := rapid.MapOf(text, text).Draw(t, "metadata"); len(m) > 0 {
		r.Metadata = m
	}
	return r
}

// equalRecords compares as a reader of the wire sees it: no metadata and empty ones are the same, and so is the value of a
// watermark that has none.
func equalRecords(a, b Record) bool {
	if a.Watermark && b.Watermark && len(a.Value) == 0 && len(b.Value) == 0 {
		a.Value, b.Value = nil, nil
	}
	if len(a.Metadata) == 0 && len(b.Metadata) == 0 {
		a.Metadata, b.Metadata = nil, nil
	}
	return reflect.DeepEqual(a, b)
}

func TestWireRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t)
		data := AppendRecord(nil, &r)
		if got, err := ReadRecord(data); err != nil || !equalRecords(got, r) {
			t.Fatalf("got %+v, want %+v: %v", got, r, err)
		}
		with, err := appendRecordWith(nil, &r, func(dst []byte) ([]byte, error) { return append(dst, r.Value...), nil })
		if err != nil {
			t.Fatal(err)
		}
		if r.Value == nil {
			r.Value = []byte{} // what is encoded is there
		}
		if got, err := ReadRecord(with); err != nil || !equalRecords(got, r) {
			t.Errorf("appendRecordWith: %+v, %v", got, err)
		}
		for cut := range len(data) - len(r.Value) { // the value is the rest, whatever is left of it
			if _, err := ReadRecord(data[:cut]); !errors.Is(err, ErrWire) {
				t.Fatalf("%d of %d bytes were taken: %v", cut, len(data), err)
			}
		}
	})
}

func TestChunkRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(drawRecord), 1, 20).Draw(t, "records")
		for i := range all { // often the same
			all[i].Type = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "type")
			all[i].Source = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "source")
		}
		var picked []int32
		for i := range all {
			if rapid.Bool().Draw(t, "picked") {
				picked = append(picked, int32(i))
			}
		}
		want := make([]Record, 0, len(all))
		for _, i := range picked {
			want = append(want, all[i])
		}
		if picked == nil {
			want = append(want, all...)
		}
		data := AppendRecords(nil, all, picked)
		if n := wireSize(want); n < len(data) {
			t.Errorf("wireSize %d, but it took %d", n, len(data))
		}
		ends := map[int]bool{1: true} // places between two records
		for n := range want {
			ends[len(AppendRecords(nil, want[:n], nil))] = true
		}
		for cut := range data {
			if _, _, err := ReadRecords(nil, data[:cut], 0, 0); ends[cut] != (err == nil) || err != nil && !errors.Is(err, ErrWire) {
				t.Fatalf("%d of %d bytes: %v", cut, len(data), err)
			}
		}
		first := rapid.Int64Range(0, 1000).Draw(t, "first")
		skip := rapid.IntRange(0, len(want)).Draw(t, "skip")
		got, end, err := ReadRecords(make([]Record, 1), data, first, first+int64(skip))
		if err != nil || end != first+int64(len(want)) || len(got) != 1+len(want)-skip {
			t.Fatalf("%d records up to %d: %v", len(got), end, err)
		}
		clear(data) // nothing may refer to it
		for i := range want[skip:] {
			want[skip+i].Offset = first + int64(skip+i)
			if !equalRecords(got[1+i], want[skip+i]) {
				t.Fatalf("got %+v, want %+v", got[1+i], want[skip+i])
			}
		}
	})
}

var fuzzed = []Record{
	{ID: "1", Type: "t", Source: "s", Key: "k", Time: time.Unix(1, 2), Value: []byte("{}"), Metadata: map[string]string{"x": "y"}},
	{ID: "2", Type: "t", Source: "s", Watermark: true, Causes: "1", Step: "p/s"},
	{ID: "3", Key: "k"},
}

func FuzzReadRecord(f *testing.F) {
	for i := range fuzzed {
		f.Add(AppendRecord(nil, &fuzzed[i]))
	}
	f.Add([]byte{wireVersion, 0xff})
	f.Add([]byte{wireVersion, 0xff, 0xff})
	f.Add([]byte{wireVersion, flagMetadata, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{wireVersion, flagSame, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ReadRecord(data)
		if err != nil {
			if !errors.Is(err, ErrWire) {
				t.Fatalf("%v does not wrap ErrWire", err)
			}
			return
		}
		checkBytes(t, data, []Record{r})
		again, err := ReadRecord(AppendRecord(nil, &r))
		if err != nil || !equalRecords(again, r) {
			t.Fatalf("%+v became %+v: %v", r, again, err)
		}
	})
}

func FuzzReadRecords(f *testing.F) {
	good := AppendRecords(nil, fuzzed, nil)
	f.Add(good, int64(0))
	f.Add(good, int64(1))
	f.Add(good[:len(good)-1], int64(0))
	f.Add([]byte{wireVersion, 1, 0, 0, 0, 128}, int64(0))
	f.Add([]byte{wireVersion, 8, 0, 0, 0, 32, 0, 255, 255, 255, 255, 255, 1}, int64(0))
	f.Add([]byte{wireVersion, 2, 0, 0, 0, flagSame, 0}, int64(0))
	f.Fuzz(func(t *testing.T, data []byte, from int64) {
		all, end, err := ReadRecords(nil, data, 0, from)
		checkBytes(t, data, all)
		if err != nil {
			if !errors.Is(err, ErrWire) {
				t.Fatalf("%v does not wrap ErrWire", err)
			}
			return
		}
		if int64(len(all)) != end-min(max(from, 0), end) {
			t.Fatalf("%d records from %d to %d", len(all), from, end)
		}
		again, _, err := ReadRecords(nil, AppendRecords(nil, all, nil), end-int64(len(all)), 0)
		if err != nil || len(again) != len(all) {
			t.Fatalf("%d records became %d: %v", len(all), len(again), err)
		}
		for i := range all {
			if !equalRecords(again[i], all[i]) {
				t.Fatalf("%+v became %+v", all[i], again[i])
			}
		}
	})
}

// checkBytes fails when records hold more than the bytes that they were read from; their types and sources may be those
// of the record before.
func checkBytes(t *testing.T, data []byte, all []Record) {
	t.Helper()
	total := 0
	for i := range all {
		r := &all[i]
		total += len(r.ID) + len(r.Key) + len(r.Value) + len(r.Causes) + len(r.Step) + 2*len(r.Metadata)
	}
	if total > len(data) {
		t.Fatalf("%d bytes became %d", len(data), total)
	}
}

// What the flags of a record say and its bytes do not hold is damage, not a record with something left out.
func TestDamagedRecords(t *testing.T) {
	for name, body := range map[string][]byte{
		"no flags":                   {},
		"half the flags":             {flagID},
		"same as none":               {flagSame, 0},
		"another type, and the same": {flagSame | flagType, 0, 1, 't'},
		"id without length":          {flagID, 0},
		"id that is too short":       {flagID, 0, 2, 'i'},
		"source that is missing":     {flagType | flagSource, 0, 1, 't'},
		"time without end":           {flagTime, 0, 2, 0x80},
		"second of many parts":       {flagTime, 0, 2, 0x80, 0x94, 0xeb, 0xdc, 0x03},
		"pair without value":         {flagMetadata, 0, 1, 1, 'k'},
		"more pairs than bytes":      {flagMetadata, 0, 3, 0, 0},
		"step that is missing":       {0, flagLineage >> 8, 1, 'c'},
	} {
		if r, err := ReadRecord(append([]byte{wireVersion}, body...)); !errors.Is(err, ErrWire) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		chunk := append([]byte{wireVersion, byte(len(body)), 0, 0, 0}, body...)
		if all, _, err := ReadRecords(nil, chunk, 0, 0); !errors.Is(err, ErrWire) {
			t.Errorf("%s, in a chunk: %+v, %v", name, all, err)
		}
	}
	for _, version := range []byte{0, wireVersion - 1, wireVersion + 1} {
		if _, err := ReadRecord([]byte{version, 0, 0}); !errors.Is(err, ErrWire) || !strings.Contains(err.Error(), "this release reads 2") {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

// A damaged count does not make room for what cannot be there.
func TestDamagedCountDoesNotAllocate(t *testing.T) {
	data := append([]byte{wireVersion, flagMetadata, 0, 0xff, 0xff, 0x1f}, make([]byte, 1<<20)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = ReadRecord(data)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("%d bytes for a record of %d", n, len(data))
	}
}

func TestMessageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t)
		for k := range r.Metadata {
			if len(k) > 3 && k[:3] == "ce_" {
				delete(r.Metadata, k)
			}
		}
		if len(r.Metadata) == 0 {
			r.Metadata = nil
		}
		got := FromMessage(ToMessage(&r))
		if r.Value == nil { // a message cannot say so
			r.Value = []byte{}
		}
		if !equalRecords(got, r) {
			t.Fatalf("got %+v, want %+v", got, r)
		}
	})
}

func TestMessageWithoutAttributes(t *testing.T) {
	msg := ToMessage(&Record{ID: "a", Value: []byte("v")})
	msg.Metadata = map[string]string{MetadataTime: "yesterday", "other": "x"}
	r := FromMessage(msg)
	if r.ID != "a" || string(r.Value) != "v" || r.Metadata["other"] != "x" || !r.Time.IsZero() {
		t.Errorf("%+v", r)
	}
	if ClassOf(r.Err) != ClassPermanent {
		t.Errorf("a time that cannot be read: %v", r.Err)
	}
}

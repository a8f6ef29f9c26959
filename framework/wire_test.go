package framework

import (
	"errors"
	"reflect"
	"runtime"
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
	if rapid.Bool().Draw(t, "timed") {
		sec := rapid.Int64Range(earliest.Unix(), latest.Unix()).Draw(t, "sec")
		r.Time = time.Unix(sec, rapid.Int64Range(0, 999_999_999).Draw(t, "nsec")).UTC()
	}
	if m := rapid.MapOf(text, text).Draw(t, "metadata"); len(m) > 0 {
		r.Metadata = m
	}
	return r
}

// equalRecords compares as a reader of the wire sees it: no value or metadata and empty ones are the same.
func equalRecords(a, b Record) bool {
	if len(a.Value) == 0 && len(b.Value) == 0 {
		a.Value, b.Value = nil, nil
	}
	if len(a.Metadata) == 0 && len(b.Metadata) == 0 {
		a.Metadata, b.Metadata = nil, nil
	}
	return reflect.DeepEqual(a, b)
}

func TestWireRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(drawRecord), 1, 4).Draw(t, "records")
		var data []byte
		for i := range all {
			data = AppendRecord(data, &all[i])
		}
		if n := wireSize(all); n < len(data) {
			t.Errorf("wireSize %d, but it took %d", n, len(data))
		}
		got, err := readRecords(data)
		if err != nil || len(got) != len(all) {
			t.Fatalf("%d of %d records: %v", len(got), len(all), err)
		}
		for i := range all {
			if !equalRecords(got[i], all[i]) {
				t.Errorf("got %+v, want %+v", got[i], all[i])
			}
		}
		with, err := appendRecordWith(nil, &all[0], func(dst []byte) ([]byte, error) { return append(dst, all[0].Value...), nil })
		if err != nil {
			t.Fatal(err)
		}
		if r, rest, err := ReadRecord(with); err != nil || len(rest) > 0 || !equalRecords(r, all[0]) {
			t.Errorf("appendRecordWith: %+v, %d bytes left, %v", r, len(rest), err)
		}
		for cut := range data { // a torn record is an error, whatever is left of it
			if _, err := readRecords(data[:cut]); err == nil {
				whole := false
				for n := range all {
					var prefix []byte
					for i := range n {
						prefix = AppendRecord(prefix, &all[i])
					}
					whole = whole || len(prefix) == cut
				}
				if !whole && cut > 0 {
					t.Fatalf("%d of %d bytes were taken", cut, len(data))
				}
			}
		}
	})
}

func FuzzReadRecord(f *testing.F) {
	f.Add(AppendRecord(nil, &Record{ID: "a", Key: "k", Time: time.Unix(1, 2), Value: []byte("{}"), Metadata: map[string]string{"x": "y"}}))
	f.Add([]byte{wireVersion, 0xff})
	f.Add([]byte{wireVersion, wireMetadata, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, rest, err := ReadRecord(data)
		if err != nil {
			if !errors.Is(err, ErrWire) {
				t.Fatalf("%v does not wrap ErrWire", err)
			}
			return
		}
		if len(rest) >= len(data) {
			t.Fatal("nothing was read")
		}
		again, _, err := ReadRecord(AppendRecord(nil, &r))
		if err != nil || !equalRecords(again, r) {
			t.Fatalf("%+v became %+v: %v", r, again, err)
		}
	})
}

// A damaged count does not make room for what cannot be there.
func TestDamagedCountDoesNotAllocate(t *testing.T) {
	data := append([]byte{wireVersion, wireMetadata, 0, 0, 0, 0, 0xff, 0xff, 0x3f}, make([]byte, 1<<20)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, _ = ReadRecord(data)
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
		if got := FromMessage(ToMessage(&r)); !equalRecords(got, r) {
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

package framework_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
)

type keyed struct {
	Key string    `json:"key"`
	At  time.Time `json:"at"`
	Do  string    `json:"do"`
}

// breaking is JSON that panics where it is told to.
type breaking struct{ framework.Codec[keyed] }

func (c breaking) Decode(r *framework.Record, v *keyed) error {
	if bytes.Contains(r.Value, []byte("panic in codec")) {
		panic("codec")
	}
	return c.Codec.Decode(r, v)
}

func (c breaking) Append(dst []byte, v *keyed) ([]byte, error) {
	switch v.Do {
	case "panic in sink":
		panic("sink")
	case "fail in sink":
		return nil, errors.New("cannot be encoded")
	}
	return c.Codec.Append(dst, v)
}

// Records that cannot be processed become faults with their bytes, wherever it shows; the others pass.
func TestRecordsThatCannotBeProcessed(t *testing.T) {
	good := func(key, do string) string {
		return fmt.Sprintf(`{"key":%q,"at":"2026-06-01T12:00:00Z","do":%q}`, key, do)
	}
	cases := []struct {
		name, key, value string
		err              error
		step, want       string
	}{
		{"good", "a", good("a", ""), nil, "", ""},
		{"bytes of no sense", "a", "\xff\xfe{", nil, "in", ""},
		{"field given twice", "a", `{"key":"a","key":"b"}`, nil, "in", "duplicate"},
		{"transport could not read it", "a", "raw", errors.New("torn"), "in", "torn"},
		{"no key", "a", good("", ""), nil, "in", "no key"},
		{"another key", "a", good("b", ""), nil, "in", `the record's is "a", the event's "b"`},
		{"no time", "a", `{"key":"a","do":""}`, nil, "in", "no time"},
		{"before all time", "a", `{"key":"a","at":"1066-10-14T09:00:00Z"}`, nil, "in", "out of range"},
		{"after all time", "a", `{"key":"a","at":"2999-01-01T00:00:00Z"}`, nil, "in", "out of range"},
		{"codec panics", "a", good("a", "panic in codec"), nil, "in", "panic: codec"},
		{"key function panics", "a", good("a", "panic in key"), nil, "in", "panic: key"},
		{"time function panics", "a", good("a", "panic in time"), nil, "in", "panic: time"},
		{"sink's codec panics", "a", good("a", "panic in sink"), nil, "out", "panic: sink"},
		{"sink's codec fails", "a", good("a", "fail in sink"), nil, "out", "cannot be encoded"},
		{"last", "a", good("a", ""), nil, "", ""},
	}
	p := framework.NewPipeline("p")
	codec := breaking{framework.JSON[keyed]()}
	in := framework.From(p, "in", framework.Source[keyed]{
		Codec: codec,
		Key: func(k keyed) string {
			if k.Do == "panic in key" {
				panic("key")
			}
			return k.Key
		},
		Time: func(k keyed) time.Time {
			if k.Do == "panic in time" {
				panic("time")
			}
			return k.At
		},
	})
	framework.To(processors.Collect(in, "kept", processors.CollectConfig{MaxCount: 100}).Stream, "out", framework.Sink[keyed]{Codec: codec})
	for _, lanes := range []int{1, 4} {
		d := frameworktest.New(t, frameworktest.Config{Partitions: 2, Lanes: lanes}, p)
		var records []framework.Record
		faulty := map[string]int{}
		for i, c := range cases {
			records = append(records, framework.Record{ID: c.name, Key: c.key, Value: []byte(c.value), Err: c.err})
			if c.step != "" {
				faulty[c.name] = i
			}
		}
		d.Send("in", records...)
		if got := len(d.Outputs("out")); got != len(cases)-len(faulty) {
			t.Errorf("%d outputs, want %d", got, len(cases)-len(faulty))
		}
		partition := framework.Partition("a", 2)
		for _, f := range d.Faults() {
			i, ok := faulty[f.Event.ID]
			if !ok {
				t.Errorf("fault of %q: %s", f.Event.ID, f.Error)
				continue
			}
			delete(faulty, f.Event.ID)
			c := cases[i]
			data, err := f.Event.Bytes()
			if err != nil || string(data) != c.value {
				t.Errorf("%s: bytes %q, %v", c.name, data, err)
			}
			if f.Step != c.step || !strings.Contains(f.Error, c.want) || f.Class != framework.ClassPermanent || f.Attempts != 1 ||
				f.Topic != "in" || f.Partition != partition || f.Offset != int64(i) || f.Place != fmt.Sprintf("in/%d@%d", partition, i) {
				t.Errorf("%s: %+v", c.name, f)
			}
		}
		for name := range faulty {
			t.Errorf("%s: no fault", name)
		}
	}
}

// What comes from a Pub/Sub that tells no times, to a stage that needs them, is told how it gets one.
func TestRecordWithoutTime(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From[thing](p, "in")
	framework.To(processors.Distinct(in, "once", time.Hour), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	d.Send("in", framework.Record{ID: "e", Key: "k", Value: []byte(`{"n":1}`)})
	const want = "the event has no time, and the stage keeps state; give its source a Time, or its record a ce_time"
	if f := d.Faults(); len(f) != 1 || f[0].Error != want || f[0].Class != framework.ClassPermanent {
		t.Errorf("faults %+v, want one: %s", f, want)
	}
}

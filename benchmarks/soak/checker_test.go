package main

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
)

// came are outputs, by topic and partition, as a checker reads them.
type came map[string][][]framework.Record

func (c came) Topic(_ context.Context, name string) (framework.TopicInfo, error) {
	if c[name] == nil {
		return framework.TopicInfo{}, errors.New("no such topic")
	}
	return framework.TopicInfo{Partitions: len(c[name])}, nil
}

func (c came) Read(_ context.Context, name string, partition int, from int64, fn func(framework.Record) error) (int64, error) {
	all := c[name][partition]
	for _, r := range all[from:] {
		if err := fn(r); err != nil {
			return from, err
		}
	}
	return int64(len(all)), nil
}

func (c came) clone() came {
	copied := came{}
	for name, partitions := range c {
		for _, records := range partitions {
			copied[name] = append(copied[name], slices.Clone(records))
		}
	}
	return copied
}

// first finds the first record of a topic that fits.
func (c came) first(t *testing.T, name string, fits func(*framework.Record) bool) *framework.Record {
	t.Helper()
	for _, records := range c[name] {
		for i := range records {
			if fits(&records[i]) {
				return &records[i]
			}
		}
	}
	t.Fatalf("no record of %s fits", name)
	return nil
}

// without leaves a record out, and with puts one behind all others of its partition.
func (c came) without(t *testing.T, name string, fits func(*framework.Record) bool) {
	t.Helper()
	gone := *c.first(t, name, fits)
	for p := range c[name] {
		c[name][p] = slices.DeleteFunc(c[name][p], func(r framework.Record) bool { return r.ID == gone.ID && r.Key == gone.Key })
	}
}

func (c came) with(name string, r framework.Record) {
	last := len(c[name]) - 1
	c[name][last] = append(c[name][last], r)
}

// runOnce runs the pipeline without any fault, and returns what came.
func runOnce(t *testing.T, s *settings) came {
	t.Helper()
	store, err := microstore.Open(microstore.Config{InMemory: true, MemoryBytes: s.MemoryBytes})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	config := framework.Config{Store: store, IdleAfter: -1, InternalPartitions: s.InternalPartitions}
	if err := runEmbedded(t.Context(), s, config); err != nil {
		t.Fatal(err)
	}
	topics, err := embedded.New(store, embedded.Config{})
	if err != nil {
		t.Fatal(err)
	}
	all := came{}
	for _, name := range append([]string{faultsTopic}, outputs...) {
		info, err := topics.Topic(t.Context(), s.topic(name))
		if err != nil {
			t.Fatal(err)
		}
		all[s.topic(name)] = make([][]framework.Record, info.Partitions)
		for p := range info.Partitions {
			_, err := topics.Read(t.Context(), s.topic(name), p, 0, func(r framework.Record) error {
				r.Value = slices.Clone(r.Value)
				all[s.topic(name)][p] = append(all[s.topic(name)][p], r)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

// TestChecker alters what a pipeline without faults gives, in each of the ways in which a broken guarantee would.
func TestChecker(t *testing.T) {
	s := settingsOf(t, 5, `{"Kind":"embedded","Distinct":false,"Orders":200,"Customers":5,"Chunk":60,"Poison":0,"Quantum":1,"Seconds":0}`)
	s.Broken, s.Prefix = filepath.Join(t.TempDir(), "broken"), "t."
	right, in := runOnce(t, &s), newInput(&s)
	check := func(c came) []string {
		checker := newChecker(&s, in, c)
		if err := checker.read(t.Context()); err != nil {
			t.Fatal(err)
		}
		return checker.verdict()
	}
	if problems := check(right); len(problems) > 0 {
		t.Fatalf("without faults: %s", problems)
	}
	any := func(*framework.Record) bool { return true }
	fault := func(class framework.Class, step string) framework.Record {
		value, err := json.Marshal(framework.Fault{Step: step, Class: class, Event: framework.FaultEvent{ID: "o00001", Data: `{"ID":"o00001"}`}})
		if err != nil {
			t.Fatal(err)
		}
		return framework.Record{ID: "f", Value: value}
	}
	tests := map[string]struct {
		alter func(c came)
		want  string
	}{
		"the same again": {func(c came) { c.with("t.decided", *c.first(t, "t.decided", any)) }, ""},
		"again with other bytes": {func(c came) {
			r := *c.first(t, "t.decided", any)
			r.Value = []byte(strings.Replace(string(r.Value), `"Payment":"`, `"Payment":"x`, 1))
			c.with("t.decided", r)
		}, "OTHER BYTES"},
		"another payment": {func(c came) {
			r := c.first(t, "t.decided", func(r *framework.Record) bool { return strings.Contains(string(r.Value), `"Payment":"p`) })
			r.Value = []byte(strings.Replace(string(r.Value), `"Payment":"p`, `"Payment":"q`, 1))
		}, "WRONG"},
		"alone in place of paid": {func(c came) {
			r := c.first(t, "t.decided", func(r *framework.Record) bool { return strings.Contains(string(r.Value), `"Payment":"p`) })
			at := strings.Index(string(r.Value), `"Payment":"p`)
			r.Value = []byte(string(r.Value[:at]) + `"Payment":""` + string(r.Value[at+len(`"Payment":"p00000"`):]))
		}, "WRONG"},
		"two change places": {func(c came) {
			for p, all := range c["t.numbered"] {
				for i := range all {
					for j := i + 1; j < len(all); j++ {
						if all[i].Key == all[j].Key {
							c["t.numbered"][p][i], c["t.numbered"][p][j] = all[j], all[i]
							return
						}
					}
				}
			}
		}, "ORDER"},
		"a good event fails":   {func(c came) { c.with("t."+faultsTopic, fault(framework.ClassPermanent, "check")) }, "FAULT"},
		"one in time is late":  {func(c came) { c.with("t."+faultsTopic, fault(framework.ClassLate, "join")) }, "LATE"},
		"one that is not kept": {func(c came) { c.with("t.decided", framework.Record{ID: "x", Value: []byte(`{"Order":"o99999"}`)}) }, "SURPLUS"},
		"a pair that is none": {func(c came) {
			c.with("t.pairs", framework.Record{ID: "x", Value: []byte(`{"A":"o00000","B":"o00199"}`)})
		}, "SURPLUS"},
		"what cannot be read":         {func(c came) { c.with("t.pairs", framework.Record{ID: "x", Err: errors.New("torn")}) }, "torn"},
		"what is no JSON":             {func(c came) { c.with("t.pairs", framework.Record{ID: "x", Value: []byte("{")}) }, "t"},
		"one by a number of its own":  {func(c came) { c.first(t, "t.totals", any).Value = []byte(`{"Key":"t0","Order":"x","N":77}`) }, "NUMBER"},
		"one that is in two windows ": {func(c came) { r := *c.first(t, "t.windows", any); r.ID = "x"; c.with("t.windows", r) }, "TWICE"},
	}
	for _, name := range outputs {
		tests["one is missing in "+name] = struct {
			alter func(c came)
			want  string
		}{func(c came) { c.without(t, "t."+name, any) }, "MISSING"}
		tests["one has another id in "+name] = struct {
			alter func(c came)
			want  string
		}{func(c came) { r := *c.first(t, "t."+name, any); r.ID = "x"; c.with("t."+name, r) }, "TWICE"}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := right.clone()
			test.alter(c)
			problems := check(c)
			if test.want == "" && len(problems) == 0 {
				return
			}
			if test.want == "" || !strings.Contains(strings.Join(problems, "\n"), test.want) {
				t.Errorf("got %q, want %q", problems, test.want)
			}
		})
	}
}

package file_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/address"
	"github.com/millrace/millrace/transport/file"
	"github.com/millrace/millrace/transport/transporttest"
)

func openDir(t testing.TB, path string) *file.Dir {
	t.Helper()
	d, err := file.OpenDir(path)
	must(t, err)
	return d
}

func TestDir(t *testing.T) {
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		path := filepath.Join(t.TempDir(), "topics")
		return transporttest.Fixture{Transport: openDir(t, path), Restart: func(t testing.TB) framework.Transport { return openDir(t, path) }}
	}, transporttest.Features{Partitions: 1})
}

// writer is a publisher of a Dir, which is a Resumer too.
type writer interface {
	framework.Publisher
	framework.Resumer
}

func dirWriter(t testing.TB, d *file.Dir) writer {
	t.Helper()
	p, err := d.Publisher(framework.PublisherConfig{})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p.(writer)
}

func numbered(from, to int) (records []framework.Record) {
	for i := from; i < to; i++ {
		records = append(records, framework.Record{ID: fmt.Sprint(i), Key: "k", Value: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	return records
}

// held are the ids in a topic.
func held(t testing.TB, d *file.Dir) (ids []string) {
	t.Helper()
	_, err := d.Read(t.Context(), "events", 0, 0, func(r framework.Record) error {
		must(t, r.Err)
		ids = append(ids, r.ID)
		return nil
	})
	must(t, err)
	return ids
}

// What was sent and not forgotten before a crash is sent again, and is in the file once, whole, and where it was; what
// another program has appended meanwhile stays.
func TestDirAfterCrash(t *testing.T) {
	for _, torn := range []string{"", `{"specversion":"1.0","id":"4`, "x"} {
		path := t.TempDir()
		d := openDir(t, path)
		must(t, d.CreateTopic(t.Context(), "events", 1))
		before := dirWriter(t, d)
		must(t, before.Resume(t.Context(), "events", 0, false))
		must(t, before.Publish(t.Context(), "events", numbered(0, 2)))
		forgotten := before.Position("events")
		must(t, before.Publish(t.Context(), "events", numbered(2, 4)))

		name := filepath.Join(path, "events.jsonl")
		f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString(`{"specversion":"1.0","id":"other"}` + "\n" + torn)
		must(t, errors.Join(err, f.Close()))

		after := dirWriter(t, d)
		must(t, after.Resume(t.Context(), "events", forgotten, true))
		must(t, after.Publish(t.Context(), "events", numbered(2, 5)))
		must(t, after.Publish(t.Context(), "events", numbered(5, 6)))
		if got := strings.Join(held(t, d), " "); got != "0 1 2 3 other 4 5" {
			t.Errorf("torn %q: the topic holds %s", torn, got)
		}
		if stat, err := os.Stat(name); err != nil || after.Position("events") != stat.Size() {
			t.Errorf("torn %q: the position is %d, the file has %d", torn, after.Position("events"), stat.Size())
		}
	}
}

func TestDirThatWasCut(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	must(t, d.CreateTopic(t.Context(), "events", 1))
	err := dirWriter(t, d).Resume(t.Context(), "events", 10, true)
	if err == nil || !strings.Contains(err.Error(), "has 0 bytes, but 10 were written") {
		t.Errorf("a file that is shorter than it was left: %v", err)
	}
}

func TestDirErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "topics")
	for text, want := range map[string]string{"file:": "file:DIR", "file:" + path + "?x=y": "without settings", "file:/dev/null/x": "not a directory"} {
		if _, err := file.OpenAddress(t.Context(), text, address.Config{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	d := openDir(t, path)
	if err := d.CreateTopic(t.Context(), "events", 4); err == nil || !strings.Contains(err.Error(), "InternalPartitions to 1") {
		t.Errorf("four partitions: %v", err)
	}
	if err := dirWriter(t, d).Publish(t.Context(), "events", numbered(0, 1)); !errors.Is(err, framework.ErrNoTopic) {
		t.Errorf("a topic that is not there: %v", err)
	}
	must(t, d.CreateTopic(t.Context(), "events", 1))
	large := []framework.Record{{ID: "large", Value: make([]byte, 17<<20)}}
	if err := dirWriter(t, d).Publish(t.Context(), "events", large); framework.ClassOf(err) != framework.ClassPermanent || !errors.Is(err, framework.ErrTooLarge) {
		t.Errorf("a line that nobody could read: %v", err)
	}
	for _, name := range []string{"../up", "a/b", "..", "ä b"} { // stay in the directory
		must(t, d.CreateTopic(t.Context(), name, 1))
		if _, err := d.Topic(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(path); err != nil || len(entries) != 5 {
		t.Errorf("%v, %v", entries, err)
	}
}

// Lines that others have written: values without attributes, and what cannot be read is a fault of the record.
func TestLinesOfOthers(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	must(t, os.WriteFile(filepath.Join(path, "events.jsonl"), []byte("plain\n"+`{"id":"7"}`+"\n"+
		`{"specversion":"1.0","id":"a","time":"yesterday"}`+"\n"+`{"specversion":"1.0","id":"b","data_base64":"!"}`+"\n"+
		`{"specversion":"1.0","id":"c","data":[1, 2],"datacontenttype":"application/json"}`+"\n"), 0o644))
	var got []framework.Record
	_, err := d.Read(t.Context(), "events", 0, 0, func(r framework.Record) error { got = append(got, r); return nil })
	must(t, err)
	if len(got) != 5 {
		t.Fatalf("%d records", len(got))
	}
	if string(got[0].Value) != "plain" || string(got[1].Value) != `{"id":"7"}` || got[0].ID+got[1].ID != "" {
		t.Errorf("lines that are no events: %+v", got[:2])
	}
	for _, r := range got[2:4] {
		if r.Err == nil || !strings.HasPrefix(string(r.Value), `{"specversion"`) {
			t.Errorf("a line that cannot be read: %+v", r)
		}
	}
	if r := got[4]; r.ID != "c" || string(r.Value) != "[1, 2]" || r.Err != nil {
		t.Errorf("an event of another program: %+v", r)
	}
}

// A record comes back as it was, whatever is in it.
func TestLinesKeepRecords(t *testing.T) {
	d := openDir(t, t.TempDir())
	n := 0
	text := rapid.StringN(0, 20, -1)
	rapid.Check(t, func(rt *rapid.T) {
		n++
		topic := fmt.Sprint("t", n)
		want := framework.Record{
			ID: text.Draw(rt, "id"), Type: text.Draw(rt, "type"), Source: text.Draw(rt, "source"), Key: text.Draw(rt, "key"),
			Causes: text.Draw(rt, "causes"), Step: text.Draw(rt, "step"), Watermark: rapid.Bool().Draw(rt, "watermark"),
			Metadata: rapid.MapOf(text, text).Draw(rt, "metadata"),
			Value: rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.SampledFrom([][]byte{nil, []byte("null"), []byte(` {"a": 1e400}`),
				[]byte("{\n}"), []byte(`"<>&\u2028"`), []byte(`{"a":1,"a":2}`), []byte("\"\xff\"")})).Draw(rt, "value"),
			Time: time.Unix(rapid.Int64Range(-1<<32, 1<<33).Draw(rt, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(rt, "nanoseconds")).UTC(),
		}
		must(t, d.CreateTopic(t.Context(), topic, 1))
		must(t, dirWriter(t, d).Publish(t.Context(), topic, []framework.Record{want}))
		var got []framework.Record
		_, err := d.Read(t.Context(), topic, 0, 0, func(r framework.Record) error { got = append(got, r); return nil })
		must(t, err)
		if len(got) != 1 {
			rt.Fatalf("%d records", len(got))
		}
		g := got[0]
		same := g.ID == want.ID && g.Type == want.Type && g.Source == want.Source && g.Key == want.Key && g.Causes == want.Causes &&
			g.Step == want.Step && g.Watermark == want.Watermark && g.Time.Equal(want.Time) && string(g.Value) == string(want.Value) &&
			len(g.Metadata) == len(want.Metadata) && g.Err == nil
		for k, v := range want.Metadata {
			same = same && g.Metadata[k] == v
		}
		if !same {
			rt.Errorf("came as\n%+v, it was\n%+v", g, want)
		}
	})
}

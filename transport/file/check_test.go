package file_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/file"
)

// checked is a transport whose check and publisher have to agree.
type checked interface {
	framework.Transport
	framework.RecordChecker
}

// agree tells whether a record is taken; it is an error when check and publisher say different things.
func agree(transport checked, publisher framework.Publisher, r framework.Record) (taken bool, err error) {
	ctx := context.Background()
	check, refused := transport.RecordCheck(ctx, "out")(&r), publisher.Publish(ctx, "out", []framework.Record{r})
	if (check == nil) != (refused == nil) {
		err = fmt.Errorf("%.100q: the check says %v, and the publisher %w", r.Value, check, refused)
	}
	return check == nil, err
}

func publisherOf(t *testing.T, transport framework.Transport) framework.Publisher {
	t.Helper()
	p, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

// What a file does not take is told before it is committed; everything else is written.
func TestRecordCheck(t *testing.T) {
	dir := openDir(t, t.TempDir())
	must(t, dir.CreateTopic(t.Context(), "out", 1))
	lines, err := file.New(file.Config{Outputs: map[string]file.Output{"out": {Path: filepath.Join(t.TempDir(), "out.jsonl")}}})
	must(t, err)
	toDir, toLines := publisherOf(t, dir), publisherOf(t, lines)
	must(t, toLines.(framework.Resumer).Resume(t.Context(), "out", 0, false))
	const limit = 16 << 20
	for name, c := range map[string]struct {
		record       framework.Record
		dir, onLines bool
	}{
		"ordinary":           {framework.Record{ID: "1", Key: "k", Value: []byte(`{"n":1}`), Metadata: map[string]string{"a": "b"}}, true, true},
		"JSON on two lines":  {framework.Record{ID: "1", Value: []byte("{\n}")}, true, true},
		"text on two lines":  {framework.Record{ID: "1", Value: []byte("a\nb")}, true, false},
		"no value":           {framework.Record{ID: "1", Key: "k"}, true, false},
		"an empty value":     {framework.Record{ID: "1", Key: "k", Value: []byte{}}, true, true},
		"a key of bytes":     {framework.Record{ID: "1", Key: "\xff", Value: []byte(`{}`)}, false, true},
		"metadata of bytes":  {framework.Record{ID: "1", Value: []byte(`{}`), Metadata: map[string]string{"a": "\xff"}}, false, true},
		"too long in base64": {framework.Record{ID: "1", Value: make([]byte, limit/4*3+1)}, false, true},
		"long JSON":          {framework.Record{ID: "1", Value: []byte(`"` + strings.Repeat("x", limit/4) + `"`)}, true, true},
	} {
		if got, err := agree(dir, toDir, c.record); got != c.dir || err != nil {
			t.Errorf("%s: a directory takes it: %v, %v", name, got, err)
		}
		if got, err := agree(lines, toLines, c.record); got != c.onLines || err != nil {
			t.Errorf("%s: a file takes it: %v, %v", name, got, err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.OneOf(rapid.Just(""), rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		r := framework.Record{
			ID: text.Draw(rt, "id"), Type: text.Draw(rt, "type"), Source: text.Draw(rt, "source"), Key: text.Draw(rt, "key"),
			Value: []byte(text.Draw(rt, "value")), Metadata: rapid.MapOf(text, text).Draw(rt, "metadata"),
		}
		_, ofDir := agree(dir, toDir, r)
		_, ofLines := agree(lines, toLines, r)
		if err := errors.Join(ofDir, ofLines); err != nil {
			rt.Fatal(err)
		}
	})
}

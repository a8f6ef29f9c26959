package file_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/file"
)

func publisher(t testing.TB, output file.Output, stdout io.Writer) *file.Publisher {
	t.Helper()
	transport := open(t, file.Config{Outputs: map[string]file.Output{"out": output}, Stdout: stdout})
	p, err := transport.Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p.(*file.Publisher)
}

func values(texts ...string) []framework.Record {
	records := make([]framework.Record, len(texts))
	for i, text := range texts {
		records[i] = framework.Record{ID: text, Value: []byte(text)}
	}
	return records
}

func content(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestSink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.jsonl")
	ctx := t.Context()
	p := publisher(t, file.Output{Path: path, Sync: true}, nil)
	must(t, p.Resume(ctx, "out", 0, false))
	must(t, p.Publish(ctx, "out", values("1", "{\n \"a\": 2\n}")))
	must(t, p.Publish(ctx, "out", []framework.Record{{Watermark: true}, {Value: []byte("3")}}))
	check(t, "a value that spans lines", p.Publish(ctx, "out", values("x\ny")), "spans lines")
	committed := p.Position("out")
	must(t, p.Publish(ctx, "out", values("4", "5")))
	must(t, p.Close())
	must(t, p.Close())
	if got := content(t, path); got != "1\n{\"a\":2}\n3\n4\n5\n" || committed != 12 {
		t.Fatalf("%q, position %d", got, committed)
	}
	check(t, "publishing after Close", p.Publish(ctx, "out", values("x")), "closed")

	p = publisher(t, file.Output{Path: path}, nil)
	must(t, p.Resume(ctx, "out", committed, true))
	check(t, "resuming twice", p.Resume(ctx, "out", 0, false), "already")
	must(t, p.Publish(ctx, "out", values("6")))
	if got := content(t, path); got != "1\n{\"a\":2}\n3\n6\n" {
		t.Fatalf("after resuming: %q", got)
	}
}

func TestSinkThatIsNotAsItWasLeft(t *testing.T) {
	ctx := t.Context()
	path := write(t, "out.jsonl", "old\n")
	check(t, "a file of others", publisher(t, file.Output{Path: path}, nil).Resume(ctx, "out", 0, false), "move it away")
	check(t, "the same without Resume", publisher(t, file.Output{Path: path}, nil).Publish(ctx, "out", values("x")), "move it away")
	check(t, "a position behind the end", publisher(t, file.Output{Path: path}, nil).Resume(ctx, "out", 9, true), "cut or deleted")
	p := publisher(t, file.Output{Path: path, Overwrite: true}, nil)
	must(t, p.Resume(ctx, "out", 0, false))
	must(t, p.Publish(ctx, "out", values("new")))
	if got := content(t, path); got != "new\n" {
		t.Errorf("overwritten: %q", got)
	}
	missing := filepath.Join(t.TempDir(), "no", "out.jsonl")
	transport := open(t, file.Config{Outputs: map[string]file.Output{"out": {Path: missing}}})
	_, err := transport.Topic(ctx, "out")
	check(t, "a missing folder", err, "make the folder first")
}

func TestStandardOutput(t *testing.T) {
	var out bytes.Buffer
	p := publisher(t, file.Output{Path: "-"}, &out)
	must(t, p.Resume(t.Context(), "out", 17, true))
	must(t, p.Publish(t.Context(), "out", values("1", "2")))
	if out.String() != "1\n2\n" || p.Position("out") != 0 {
		t.Errorf("%q, position %d", out.String(), p.Position("out"))
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	childVariable = "MILLRACE_FILE_TEST_CHILD"
	childBatch    = 7
)

// child writes numbered lines without end, and after each batch reports, as an engine commits, how many
// it has written and the position. It goes on behind what "count/position" says.
func child() {
	var count, position int64
	args := strings.SplitN(os.Getenv(childVariable), " ", 3)
	_, _ = fmt.Sscan(args[0]+" "+args[1], &count, &position)
	transport, err := file.New(file.Config{Outputs: map[string]file.Output{"out": {Path: args[2]}}})
	if err != nil {
		panic(err)
	}
	p, _ := transport.Publisher(framework.PublisherConfig{})
	if err := p.(framework.Resumer).Resume(context.Background(), "out", position, count > 0); err != nil {
		panic(err)
	}
	for {
		records := make([]framework.Record, childBatch)
		for i := range records {
			records[i].Value = fmt.Appendf(nil, `{"n":%d,"pad":%q}`, count, strings.Repeat("x", int(count)%2000))
			count++
		}
		if err := p.Publish(context.Background(), "out", records); err != nil {
			panic(err)
		}
		report := binary.BigEndian.AppendUint64(nil, uint64(count))
		report = binary.BigEndian.AppendUint64(report, uint64(p.(framework.Resumer).Position("out")))
		if _, err := os.Stdout.Write(report); err != nil {
			return
		}
	}
}

// A child is killed again and again at any point of writing; the file must hold each line once, whole.
func TestSinkSurvivesKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.jsonl")
	var count, position uint64
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %s", childVariable, count, position, path))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		var report [16]byte
		for range 20 + 13*round {
			if _, err := io.ReadFull(out, report[:]); err != nil {
				t.Fatalf("the child gave up: %v", err)
			}
			count, position = binary.BigEndian.Uint64(report[:]), binary.BigEndian.Uint64(report[8:])
		}
		must(t, cmd.Process.Kill()) // while it writes on
		_ = cmd.Wait()
		// Only what was read counts as committed: more may have been reported. There is more in any case.
		behind, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		_, err = behind.WriteString("{\"n\":\"of nobody\"}\n{\"n\":")
		must(t, errors.Join(err, behind.Close()))
	}
	p := publisher(t, file.Output{Path: path}, nil)
	must(t, p.Resume(t.Context(), "out", int64(position), true))
	lines := strings.Split(strings.TrimSuffix(content(t, path), "\n"), "\n")
	if len(lines) != int(count) {
		t.Fatalf("%d lines, %d were committed", len(lines), count)
	}
	for i, line := range lines {
		if want := fmt.Sprintf(`{"n":%d,"pad":%q}`, i, strings.Repeat("x", i%2000)); line != want {
			t.Fatalf("line %d is %.40s…", i, line)
		}
	}
}

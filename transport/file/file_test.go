package file_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/file"
	"github.com/millrace/millrace/transport/transporttest"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

func fixture(follow bool) func(t testing.TB) transporttest.Fixture {
	return func(t testing.TB) transporttest.Fixture {
		dir := t.TempDir()
		inputs := make(map[string]file.Input)
		for _, topic := range []string{"events", "others"} {
			inputs[topic] = file.Input{
				Path: filepath.Join(dir, topic+".jsonl"), Follow: follow, PollInterval: time.Millisecond,
			}
		}
		add := func(t testing.TB, topic string, text string) {
			f, err := os.OpenFile(inputs[topic].Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err == nil {
				_, err = f.WriteString(text)
				_ = f.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return transporttest.Fixture{
			Transport: open(t, file.Config{Inputs: inputs}),
			Create:    func(t testing.TB, topic string, _ int) { add(t, topic, "") },
			Write: func(t testing.TB, topic string, records []framework.Record) {
				var b strings.Builder
				for _, r := range records {
					b.Write(r.Value)
					b.WriteByte('\n')
				}
				add(t, topic, b.String())
			},
		}
	}
}

func TestTransport(t *testing.T) {
	transporttest.Run(t, fixture(false), transporttest.Features{Partitions: 1, ReadOnly: true, ValuesOnly: true, Whole: true})
}

func TestTransportThatFollows(t *testing.T) {
	transporttest.Run(t, fixture(true), transporttest.Features{Partitions: 1, ReadOnly: true, ValuesOnly: true})
}

func open(t testing.TB, config file.Config) *file.Transport {
	t.Helper()
	transport, err := file.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return transport
}

func write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	data := []byte(content)
	if strings.HasSuffix(name, ".gz") {
		data = zip(content)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func zip(content string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, content)
	_ = w.Close()
	return b.Bytes()
}

// readAll reads a topic to its end, or to the error that ends it.
func readAll(t testing.TB, transport *file.Transport, topic string, start int64) ([]framework.Record, error) {
	t.Helper()
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{
		BatchEvents: 1000, BatchBytes: 1 << 20, InFlight: 2,
		Start: func(string, int) (int64, bool) { return start, start > 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer subscriber.Close()
	messages, err := subscriber.Subscribe(t.Context(), topic)
	if err != nil {
		return nil, err
	}
	var all []framework.Record
	for {
		b := receive(t, messages)
		if n := len(b.Records); n > 0 && framework.ClassOf(b.Records[n-1].Err) == framework.ClassFatal {
			return append(all, b.Records[:n-1]...), b.Records[n-1].Err
		}
		all = append(all, b.Records...)
		if b.End {
			return all, nil
		}
	}
}

func receive(t testing.TB, messages <-chan *message.Message) *framework.Batch {
	t.Helper()
	select {
	case msg := <-messages:
		msg.Ack()
		b, _ := framework.BatchOf(msg)
		return b
	case <-time.After(10 * time.Second):
		t.Fatal("no batch within 10 s")
		return nil
	}
}

func summary(records []framework.Record) string {
	var b strings.Builder
	for _, r := range records {
		fmt.Fprintf(&b, "%d:%d %q", r.Offset, r.Line, r.Value)
		if r.Err != nil {
			fmt.Fprintf(&b, " (%v)", r.Err)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestSources(t *testing.T) {
	for _, test := range []struct{ name, file, content, want string }{
		{"json lines", "a.jsonl", "{}\n[1]\n", "0:1 \"{}\"\n1:2 \"[1]\"\n"},
		{"no newline at the end", "a.jsonl", "{}\n[1]", "0:1 \"{}\"\n1:2 \"[1]\"\n"},
		{"blank lines, CRLF and BOM", "a.ndjson", "\ufeff{}\r\n\r\n  \t\n[1]\r\n", "0:1 \"{}\"\n1:4 \"[1]\"\n"},
		{"compressed", "a.jsonl.gz", "{}\n[1]\n", "0:1 \"{}\"\n1:2 \"[1]\"\n"},
		{"empty", "a.jsonl", "", ""},
		{"csv", "a.csv", "x,y\n1,2\n\n3,4\n", "0:2 \"1,2\"\n1:4 \"3,4\"\n"},
		{"csv with quotes", "a.csv", "x,y\r\n\"a,\"\"b\",\"c\r\nd\"\r\n3,4\r\n", "0:2 \"\\\"a,\\\"\\\"b\\\",\\\"c\\r\\nd\\\"\"\n1:4 \"3,4\"\n"},
		{"tsv", "a.tsv", "x\ty\n1,5\t2\n", "0:2 \"1,5\\t2\"\n"},
		{"columns", "a.csv", "x,y\n1\n1,2,3\n1,2\n",
			"0:2 \"1\" (file: a.csv:2: wrong number of columns: the header has 2)\n" +
				"1:3 \"1,2,3\" (file: a.csv:3: wrong number of columns: the header has 2)\n2:4 \"1,2\"\n"},
		{"columns with quotes", "a.csv", "x,y\n\"1,2\"\n1,2\n",
			"0:2 \"\\\"1,2\\\"\" (file: a.csv:2: wrong number of columns: the header has 2)\n1:3 \"1,2\"\n"},
		{"quotes", "a.csv", "x,y\na\"b,c\n\"a\"b,c\n1,2\n",
			"0:2 \"a\\\"b,c\" (file: a.csv:2: misplaced quote)\n1:3 \"\\\"a\\\"b,c\" (file: a.csv:3: misplaced quote)\n2:4 \"1,2\"\n"},
		{"a quote that is not closed costs one line", "a.csv", "x,y\n1,\"open\n1,2\n3,4\n",
			"0:2 \"1,\\\"open\" (file: a.csv:2: misplaced quote)\n1:3 \"1,2\"\n2:4 \"3,4\"\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			transport := open(t, file.Config{Inputs: map[string]file.Input{"in": {Path: write(t, test.file, test.content)}}})
			got, err := readAll(t, transport, "in", 0)
			if err != nil {
				t.Fatal(err)
			}
			if summary(got) != test.want {
				t.Errorf("got\n%swant\n%s", summary(got), test.want)
			}
			for i := range got { // a restart skips what was read
				rest, err := readAll(t, transport, "in", int64(i)+1)
				if err != nil || summary(rest) != summary(got[i+1:]) {
					t.Errorf("from %d: got\n%s (%v), want\n%s", i+1, summary(rest), err, summary(got[i+1:]))
				}
			}
			if read, total := transport.Progress("in"); read != total {
				t.Errorf("progress at the end: %d of %d", read, total)
			}
		})
	}
}

func TestLongRecords(t *testing.T) {
	long := strings.Repeat("x", 300_000)
	content := "short\n" + long + "\nnext\n" + strings.Repeat("y", 100) + "\n" + strings.Repeat("z", 101) + "\r\n" + long
	transport := open(t, file.Config{Inputs: map[string]file.Input{
		"in": {Path: write(t, "a.jsonl", content), MaxRecordBytes: 100},
	}})
	got, err := readAll(t, transport, "in", 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		line, bytes int
		bad         bool
	}{{1, 5, false}, {2, 100, true}, {3, 4, false}, {4, 100, false}, {5, 100, true}, {6, 100, true}}
	if len(got) != len(want) {
		t.Fatalf("%d records, expected %d", len(got), len(want))
	}
	for i, w := range want {
		if r := got[i]; int(r.Line) != w.line || len(r.Value) != w.bytes || errors.Is(r.Err, file.ErrTooLong) != w.bad {
			t.Errorf("record %d: line %d, %d bytes, %v", i, r.Line, len(r.Value), r.Err)
		}
	}
	if framework.ClassOf(got[1].Err) != framework.ClassPermanent {
		t.Error("a long record's error is not permanent")
	}
}

func TestUnusableSources(t *testing.T) {
	damaged := zip(strings.Repeat("{}\n", 1000))
	for _, test := range []struct{ name, file, content, topic, subscribe, read string }{
		{"missing", "", "", "no such file", "no such file", ""},
		{"empty csv", "a.csv", "", "no header row", "no header row", ""},
		{"duplicate column", "a.csv", "x,y,x\n", `column "x" is there twice`, "twice", ""},
		{"torn header", "a.csv", "x,\"y\n", "header row: misplaced quote", "misplaced", ""},
		{"gzip cut", "a.jsonl", string(damaged[:len(damaged)-9]), "", "", "unexpected EOF"},
		{"gzip damaged", "a.jsonl", string(damaged[:len(damaged)-8]) + "12345678", "", "", "checksum"},
		{"gzip of nothing", "a.jsonl", "\x1f\x8bxx", "unpack", "unpack", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "missing.jsonl")
			if test.file != "" {
				path = write(t, test.file, test.content)
			}
			transport := open(t, file.Config{Inputs: map[string]file.Input{"in": {Path: path}}})
			_, err := transport.Topic(t.Context(), "in")
			check(t, "Topic", err, test.topic)
			_, err = readAll(t, transport, "in", 0)
			check(t, "reading", err, test.subscribe+test.read)
			if test.read != "" && framework.ClassOf(err) != framework.ClassFatal {
				t.Errorf("the error is not fatal: %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), filepath.Base(path)) {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
	t.Run("position behind the end", func(t *testing.T) {
		transport := open(t, file.Config{Inputs: map[string]file.Input{"in": {Path: write(t, "a.jsonl", "{}\n")}}})
		_, err := readAll(t, transport, "in", 7)
		check(t, "reading", err, "there are only 1")
	})
	t.Run("folder", func(t *testing.T) {
		transport := open(t, file.Config{Inputs: map[string]file.Input{"in": {Path: t.TempDir(), Format: file.JSONLines}}})
		_, err := transport.Topic(t.Context(), "in")
		check(t, "Topic", err, "not a regular file")
	})
}

func check(t *testing.T, what string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: %v, expected %q", what, err, want)
	}
}

func TestConfig(t *testing.T) {
	_, err := file.New(file.Config{
		Inputs: map[string]file.Input{
			"a": {}, "b": {Path: "x.dat"}, "c": {Path: "-"}, "d": {Path: "x.csv.gz", Follow: true}, "e": {Path: "same.jsonl"},
		},
		Outputs: map[string]file.Output{"e": {Path: "./same.jsonl"}, "f": {}, "g": {Path: "x.gz"}},
	})
	for _, want := range []string{
		`input "a": Path is empty`, `input "b": x.dat: Format is not set`, `input "c": Format is not set`,
		`input "d": x.csv.gz: Follow`, `output "e": ./same.jsonl is also input "e"`, `topic "e" is both`,
		`output "f": Path is empty`, `output "g"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

func TestStandardInput(t *testing.T) {
	transport := open(t, file.Config{
		Inputs: map[string]file.Input{"in": {Path: "-", Format: file.CSVRows}}, Stdin: bytes.NewReader(zip("x,y\n1,2\n3,4\n")),
	})
	if info, err := transport.Topic(t.Context(), "in"); err != nil || !info.Bounded {
		t.Fatal(info, err)
	}
	got, err := readAll(t, transport, "in", 1)
	if err != nil || summary(got) != "1:3 \"3,4\"\n" {
		t.Errorf("%s (%v)", summary(got), err)
	}
	_, err = readAll(t, transport, "in", 0)
	check(t, "reading twice", err, "it can be read once")
}

// Close does not wait for input that does not come.
func TestStandardInputThatWaits(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	transport := open(t, file.Config{Inputs: map[string]file.Input{"in": {Path: "-", Format: file.JSONLines}}, Stdin: in})
	subscriber, _ := transport.Subscriber(framework.SubscriberConfig{})
	messages, err := subscriber.Subscribe(t.Context(), "in")
	if err != nil {
		t.Fatal(err)
	}
	if err := subscriber.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-messages; ok {
		t.Error("a message came")
	}
}

// follow subscribes to a followed file and returns it open for appending.
func follow(t *testing.T) (path string, f *os.File, messages <-chan *message.Message) {
	t.Helper()
	path = write(t, "a.csv", "x\n1\n")
	transport := open(t, file.Config{Inputs: map[string]file.Input{
		"in": {Path: path, Follow: true, PollInterval: time.Millisecond},
	}})
	subscriber, _ := transport.Subscriber(framework.SubscriberConfig{InFlight: 1})
	t.Cleanup(func() { _ = subscriber.Close() })
	messages, err := subscriber.Subscribe(t.Context(), "in")
	if err != nil {
		t.Fatal(err)
	}
	if f, err = os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if got := summary(receive(t, messages).Records); got != "0:2 \"1\"\n" {
		t.Fatal(got)
	}
	return path, f, messages
}

func TestFollowWaitsForTheWholeLine(t *testing.T) {
	_, f, messages := follow(t)
	_, _ = f.WriteString("2")
	select {
	case <-messages:
		t.Fatal("half a line was delivered")
	case <-time.After(20 * time.Millisecond):
	}
	_, _ = f.WriteString("3\n\"4")
	if b := receive(t, messages); summary(b.Records) != "1:3 \"23\"\n" || b.End || !b.CaughtUp {
		t.Fatal(summary(b.Records))
	}
	_, _ = f.WriteString("\n\"\n")
	if got := summary(receive(t, messages).Records); got != "2:4 \"\\\"4\\n\\\"\"\n" {
		t.Fatal(got)
	}
}

func TestFollowedFileThatIsMoved(t *testing.T) {
	for name, move := range map[string]func(path string) error{
		"rotation": func(path string) error {
			if err := os.Rename(path, path+".1"); err != nil {
				return err
			}
			return os.WriteFile(path, []byte("x\n"), 0o600)
		},
		"removed": os.Remove,
		"was cut": func(path string) error { return os.Truncate(path, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			path, f, messages := follow(t)
			if name != "was cut" {
				_, _ = f.WriteString("2\n") // just before: it still counts
			}
			if err := move(path); err != nil {
				t.Fatal(err)
			}
			b := receive(t, messages)
			if name != "was cut" {
				if got := summary(b.Records); got != "1:3 \"2\"\n" {
					t.Fatal(got)
				}
				b = receive(t, messages)
			}
			if err := b.Records[0].Err; framework.ClassOf(err) != framework.ClassFatal || !strings.Contains(err.Error(), name) {
				t.Errorf("%v, expected %q", err, name)
			}
		})
	}
}

func TestUnknownTopics(t *testing.T) {
	transport := open(t, file.Config{Inputs: map[string]file.Input{"in": {Path: "a.jsonl"}}})
	publisher, _ := transport.Publisher(framework.PublisherConfig{})
	defer publisher.Close()
	if err := publisher.Publish(context.Background(), "in", nil); !errors.Is(err, framework.ErrNoTopic) {
		t.Error(err)
	}
}

//go:build unix

package file_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/file"
)

// A disk that is full in the middle of a write: Publish has an error that passes, and when there is room again what was
// written is not there twice, nor is half a line.
func TestFullInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	topics := openDir(t, dir)
	must(t, topics.CreateTopic(t.Context(), "events", 1))
	sinks := open(t, file.Config{Outputs: map[string]file.Output{"sink": {Path: filepath.Join(dir, "sink.jsonl")}}})
	sink, err := sinks.Publisher(framework.PublisherConfig{})
	must(t, err)
	defer func() { must(t, sink.Close()) }()
	for topic, p := range map[string]framework.Publisher{"events": dirWriter(t, topics), "sink": sink} {
		path := filepath.Join(dir, topic+".jsonl")
		must(t, p.Publish(t.Context(), topic, numbered(0, 10)))
		stat, err := os.Stat(path)
		must(t, err)
		room := limitFiles(t, stat.Size()+stat.Size()/2+3)
		err = p.Publish(t.Context(), topic, numbered(10, 20))
		room()
		if !errors.Is(err, syscall.EFBIG) || framework.ClassOf(err) == framework.ClassFatal {
			t.Errorf("%s: while the disk is full: %v", topic, err)
		}
		if stat, err := os.Stat(path); err != nil || stat.Size() < 100 {
			t.Errorf("%s: nothing was written, so this shows nothing: %v, %v", topic, stat.Size(), err)
		}
		must(t, p.Publish(t.Context(), topic, numbered(10, 20)))
		must(t, p.Publish(t.Context(), topic, numbered(20, 21)))
		text, err := os.ReadFile(path)
		must(t, err)
		if n := strings.Count(string(text), "\n"); n != 21 || !strings.HasSuffix(string(text), "\n") || strings.Count(string(text), `{"n":14}`) != 1 {
			t.Errorf("%s: %d lines\n%s", topic, n, text)
		}
	}
	if got := held(t, topics); len(got) != 21 || got[20] != "20" {
		t.Errorf("the topic holds %v", got)
	}
}

// limitFiles bounds what a file of this process can grow to, until room is called.
func limitFiles(t *testing.T, bytes int64) (room func()) {
	var was syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was))
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(bytes), Max: was.Max}))
	return func() { must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was)) }
}

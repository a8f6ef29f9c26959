package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/address"
	"github.com/millrace/millrace/transport/internal/delivery"
)

// Dir is a directory whose files are topics that are written and read: the topic orders is orders.jsonl, to which each
// event is appended as a line, in CloudEvents' JSON format (see line.go). A line that is no CloudEvent is an event with
// that value and nothing else, so files of yours can be sources. Readers follow the files; topics have no end.
//
// Its methods are safe for concurrent use. It holds nothing open by itself: subscribers and publishers do.
type Dir struct{ path string }

var (
	_ framework.Transport    = (*Dir)(nil)
	_ framework.TopicCreator = (*Dir)(nil)
	_ framework.TopicReader  = (*Dir)(nil)
)

const (
	// maxLineBytes bounds a line of a Dir.
	maxLineBytes = 16 << 20
	dirPoll      = 20 * time.Millisecond
	extension    = ".jsonl"
)

// OpenAddress makes the Dir of an address, file:DIR. It is an address.Opener. The directory is made when it is not there.
func OpenAddress(_ context.Context, text string, _ address.Config) (framework.Transport, error) {
	path := strings.TrimPrefix(strings.TrimPrefix(text, "file:"), "//")
	if path == "" || strings.Contains(path, "?") {
		return nil, fmt.Errorf("file: address: %q: it must be like file:DIR, without settings", text)
	}
	return OpenDir(path)
}

// OpenDir makes a transport of a directory, and the directory when it is not there.
func OpenDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("file: directory of topics: %w", err)
	}
	return &Dir{path}, nil
}

// file is the path of a topic's file. A name that no file can have is escaped.
func (d *Dir) file(topic string) string {
	return filepath.Join(d.path, url.PathEscape(topic)+extension)
}

// Topic describes a topic: one partition; Size is in bytes.
func (d *Dir) Topic(_ context.Context, name string) (framework.TopicInfo, error) {
	stat, err := os.Stat(d.file(name))
	switch {
	case errors.Is(err, fs.ErrNotExist) || name == "":
		return framework.TopicInfo{}, fmt.Errorf("file: topic %q: %w: there is no %s; make it with CreateTopic", name, framework.ErrNoTopic, d.file(name))
	case err != nil:
		return framework.TopicInfo{}, fmt.Errorf("file: topic %q: %w", name, err)
	case !stat.Mode().IsRegular():
		return framework.TopicInfo{}, fmt.Errorf("file: topic %q: %s is not a regular file", name, d.file(name))
	}
	return framework.TopicInfo{Partitions: 1, Positioned: true, Size: stat.Size()}, nil
}

// CreateTopic makes an empty file unless it is there.
func (d *Dir) CreateTopic(_ context.Context, name string, partitions int) error {
	if name == "" {
		return errors.New("file: create topic: the name is empty")
	}
	if partitions < 0 || partitions > 1 {
		return fmt.Errorf("file: create topic %q: %d partitions: a file is 1; for topics between stages set Config.Internal to "+
			"transport/embedded, or Config.InternalPartitions to 1", name, partitions)
	}
	file, err := os.OpenFile(d.file(name), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("file: create topic %q: %w", name, err)
	}
	return file.Close()
}

// Subscriber makes what reads topics in batches, and follows them.
func (d *Dir) Subscriber(config framework.SubscriberConfig) (message.Subscriber, error) {
	return delivery.NewSubscriber(config, func(_ context.Context, topic string) ([]delivery.Reader, error) {
		source, err := d.source(topic, new(atomic.Int64))
		if err != nil {
			return nil, fmt.Errorf("file: subscribe to %q: %w", topic, err)
		}
		r := &reader{
			topic: topic, origin: source.origin, source: source, decode: fromLine,
			events: config.BatchEvents, bytes: config.BatchBytes, read: new(atomic.Int64), wake: make(chan struct{}, 1),
		}
		if config.Start != nil {
			if position, ok := config.Start(topic, 0); ok {
				r.start = position
			}
		}
		return []delivery.Reader{r}, nil
	}), nil
}

func (d *Dir) source(topic string, read *atomic.Int64) (*source, error) {
	return openSource(d.input(topic), nil, read)
}

func (d *Dir) input(topic string) Input {
	return Input{Path: d.file(topic), Format: JSONLines, Follow: true, PollInterval: dirPoll, MaxRecordBytes: maxLineBytes}
}

// sourceAsItIs is a source that ends where the file ends now.
func (d *Dir) sourceAsItIs(topic string) (*source, error) {
	in := d.input(topic)
	file, err := openRegular(in.Path)
	if err != nil {
		return nil, err
	}
	s := &source{input: in, origin: in.origin(), file: file, closer: file}
	info, err := file.Stat()
	if err == nil {
		err = s.begin(io.LimitReader(file, info.Size()))
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// Read calls fn for the records of a topic from a number on, in order, up to the last line that is whole when it is called.
// It returns the number to go on at: the one after the last record for which fn gave no error, which is returned.
func (d *Dir) Read(ctx context.Context, topic string, partition int, from int64, fn func(framework.Record) error) (next int64, err error) {
	if _, err := d.Topic(ctx, topic); err != nil {
		return from, err
	}
	if partition != 0 {
		return from, fmt.Errorf("file: read %q: there is no partition %d: a file is one, 0", topic, partition)
	}
	s, err := d.sourceAsItIs(topic)
	if err != nil {
		return from, fmt.Errorf("file: read %q: %w", topic, err)
	}
	defer s.close()
	for n := int64(0); ; n++ {
		if n%checkEvery == 0 && ctx.Err() != nil {
			return max(n, from), ctx.Err()
		}
		record, err := s.next()
		if errors.Is(err, io.EOF) {
			return max(n, from), nil
		}
		if err != nil {
			return max(n, from), fmt.Errorf("file: read %q: %w", topic, err)
		}
		if n < from {
			continue
		}
		record.Value, record.Offset = append([]byte(nil), record.Value...), n
		fromLine(&record)
		if err := fn(record); err != nil {
			return n, err
		}
	}
}

// Publisher makes what appends to topics. It implements framework.Resumer.
func (d *Dir) Publisher(framework.PublisherConfig) (framework.Publisher, error) {
	return &dirPublisher{dir: d, files: make(map[string]*appending)}, nil
}

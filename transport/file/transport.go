package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/delivery"
)

// Transport reads and writes files. It implements framework.Transport; its methods are safe for
// concurrent use. It holds nothing open by itself: subscribers and publishers do.
type Transport struct {
	config Config

	mu        sync.Mutex
	read      map[string]*atomic.Int64 // bytes of the newest subscription
	stdinUsed bool
}

var _ framework.Transport = (*Transport)(nil)

// New makes a transport. The files are looked at by Topic and Subscribe.
func New(config Config) (*Transport, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("file: config: %w", err)
	}
	return &Transport{config: config.WithDefaults(), read: make(map[string]*atomic.Int64)}, nil
}

// Topic describes a file: one partition, the size in bytes as the file is stored. It opens an input and
// reads the header, so that a missing or unreadable file, a missing header and a duplicate column are
// found before anything runs.
func (t *Transport) Topic(_ context.Context, name string) (framework.TopicInfo, error) {
	info := framework.TopicInfo{Partitions: 1, Positioned: true}
	if out, ok := t.config.Outputs[name]; ok {
		if err := out.check(); err != nil {
			return info, fmt.Errorf("file: output %q: %w", name, err)
		}
		if stat, err := os.Stat(out.Path); err == nil {
			info.Size = stat.Size()
		}
		return info, nil
	}
	in, ok := t.config.Inputs[name]
	if !ok {
		return framework.TopicInfo{}, t.unknown(name)
	}
	info.Bounded = !in.Follow
	if in.Path == Stdio {
		return info, nil
	}
	source, err := openSource(in, nil, new(atomic.Int64))
	if err != nil {
		return info, fmt.Errorf("file: input %q: %w", name, err)
	}
	defer source.close()
	stat, err := source.file.Stat()
	if err != nil {
		return info, fmt.Errorf("file: input %q: %w", name, err)
	}
	info.Size = stat.Size()
	return info, nil
}

func (t *Transport) unknown(name string) error {
	return fmt.Errorf("file: topic %q: %w: there are the inputs [%s] and the outputs [%s]", name, framework.ErrNoTopic,
		strings.Join(sortedKeys(t.config.Inputs), " "), strings.Join(sortedKeys(t.config.Outputs), " "))
}

// Progress tells how many bytes of an input's file its newest subscription has read, of how many. Both
// count the file as it is stored, compressed or not; total is 0 for standard input.
func (t *Transport) Progress(topic string) (read, total int64) {
	t.mu.Lock()
	counter := t.read[topic]
	t.mu.Unlock()
	if counter != nil {
		read = counter.Load()
	}
	if in, ok := t.config.Inputs[topic]; ok && in.Path != Stdio {
		if stat, err := os.Stat(in.Path); err == nil {
			total = stat.Size()
		}
	}
	return read, total
}

// Subscriber makes what reads inputs in batches.
func (t *Transport) Subscriber(config framework.SubscriberConfig) (message.Subscriber, error) {
	return delivery.NewSubscriber(config, func(_ context.Context, topic string) ([]delivery.Reader, error) {
		r, err := t.open(topic, config)
		if err != nil {
			return nil, fmt.Errorf("file: subscribe to %q: %w", topic, err)
		}
		return []delivery.Reader{r}, nil
	}), nil
}

func (t *Transport) open(topic string, config framework.SubscriberConfig) (*reader, error) {
	in, ok := t.config.Inputs[topic]
	if _, output := t.config.Outputs[topic]; output {
		return nil, errors.New("it is an output: what was written is read as an input with a name of its own")
	}
	if !ok {
		return nil, t.unknown(topic)
	}
	r := &reader{
		topic: topic, origin: in.origin(), events: config.BatchEvents, bytes: config.BatchBytes,
		read: new(atomic.Int64), wake: make(chan struct{}, 1),
	}
	if config.Start != nil {
		if position, ok := config.Start(topic, 0); ok {
			r.start = position
		}
	}
	if in.Path == Stdio {
		if err := t.openStdin(in, r); err != nil {
			return nil, err
		}
	} else {
		source, err := openSource(in, nil, r.read)
		if err != nil {
			return nil, err
		}
		r.source = source
	}
	t.mu.Lock()
	t.read[topic] = r.read
	t.mu.Unlock()
	return r, nil
}

// openStdin leaves the first read to the delivery loop, since it may wait.
func (t *Transport) openStdin(in Input, r *reader) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stdinUsed {
		return errors.New("standard input was read already: it can be read once")
	}
	t.stdinUsed = true
	p := newPump(t.config.Stdin)
	r.interrupt = p.stop
	r.open = func() (*source, error) { return openSource(in, p, r.read) }
	return nil
}

// Publisher makes what writes outputs. It implements framework.Resumer.
func (t *Transport) Publisher(framework.PublisherConfig) (framework.Publisher, error) {
	return &Publisher{transport: t, sinks: make(map[string]*sink)}, nil
}

func (o Output) check() error {
	if o.Path == Stdio {
		return nil
	}
	folder, err := os.Stat(filepath.Dir(o.Path))
	if err != nil {
		return fmt.Errorf("%s: its folder: %w: make the folder first", o.Path, err)
	}
	if !folder.IsDir() {
		return fmt.Errorf("%s: %s is not a folder", o.Path, filepath.Dir(o.Path))
	}
	if stat, err := os.Stat(o.Path); err == nil && !stat.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", o.Path)
	}
	return nil
}

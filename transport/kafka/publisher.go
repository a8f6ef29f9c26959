package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
)

// Publisher makes what writes topics. All publishers of a transport share one idempotent client, so that records of
// all topics travel in the same requests.
func (t *Transport) Publisher(config framework.PublisherConfig) (framework.Publisher, error) {
	t.lent.take(config.Logger)
	return publisher{t}, nil
}

type publisher struct{ t *Transport }

func (p publisher) Close() error { return nil }

// Publish sends records and waits until all replicas in sync have them:
//
//  1. Where one is larger than the topic takes, none is sent: see oversized.
//  2. Each gets its partition: by the key as Java's client does it, else by the id so that one that is sent again
//     goes to the same place, else in turn. A watermark without a key goes to every partition.
//  3. The client batches them by partition and sends what has no request out yet. Its retries repeat the numbers
//     that it gave the batches, so the brokers leave out what they have and take nothing out of order.
//  4. When a record fails, all that the client holds for its partition fail with it, and none is sent past it. Where brokers
//     refuse a batch because the topic's limit was lowered since it was asked for, what comes after it may be.
//
// When ctx ends while brokers owe an answer, Publish returns without it: those records may be written still.
func (p publisher) Publish(ctx context.Context, topic string, records []framework.Record) error {
	if len(records) == 0 {
		return nil
	}
	is, err := p.t.writable(ctx, topic)
	if err != nil {
		return err
	}
	if err := oversized(topic, records, is); err != nil {
		return err
	}
	e := encoders.Get().(*encoder)
	e.spread(topic, records, is.partitions)
	sent := &sending{done: make(chan struct{}), left: len(e.records)}
	// Not kgo.RecordDeliveryTimeout, which goes by the records' timestamps.
	trying, cancel := context.WithTimeout(ctx, p.t.config.DeliveryTimeout)
	defer cancel()
	taken := sent.taken // made once: it is an allocation
	for i := range e.records {
		p.t.client.Produce(trying, &e.records[i], taken)
	}
	if err := p.t.wait(ctx, topic, sent); err != nil {
		return err
	}
	if sent.err != nil {
		p.t.forget(topic, sent.err)
		return p.t.failure(ctx, topic, records, sent)
	}
	if cap(e.bytes) <= 4<<20 {
		clear(e.records) // payloads are not ours
		encoders.Put(e)
	}
	return nil
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

// spread encodes records with their partitions.
func (e *encoder) spread(topic string, records []framework.Record, n int) {
	everywhere := func(r *framework.Record) bool { return r.Watermark && r.Key == "" }
	copies := 0
	for i := range records {
		if everywhere(&records[i]) {
			copies += n - 1
		}
	}
	e.reset(records, copies)
	now := time.Now()
	for i := range records {
		r := &records[i]
		k := e.encode(topic, r, now)
		switch {
		case everywhere(r):
			for q := range n - 1 {
				k.Partition = int32(q)
				e.records = append(e.records, k)
			}
			k.Partition = int32(n - 1)
		case r.Key != "":
			k.Partition = int32(framework.Partition(r.Key, n))
		case r.ID != "":
			k.Partition = int32(framework.Partition(r.ID, n))
		default:
			k.Partition = int32(i % n)
		}
		e.records = append(e.records, k)
	}
}

// writable tells what is known of a topic, from memory where that is.
func (t *Transport) writable(ctx context.Context, topic string) (written, error) {
	t.mu.Lock()
	is, closed := t.topics[topic], t.closed
	t.mu.Unlock()
	if closed {
		return is, framework.Fatal(ErrClosed)
	}
	if is.partitions > 0 {
		return is, nil
	}
	n, err := t.partitions(ctx, topic)
	if err != nil {
		return is, classify(err)
	}
	is = written{n, t.batchBytes(ctx, topic)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.topics[topic] = is
	return is, nil
}

// oversized is an error when a record is larger than the topic takes: brokers would refuse it, and all that is in a batch
// with it, and what comes behind that might be written.
func oversized(topic string, records []framework.Record, is written) error {
	for i := range records {
		if size, over := larger(&records[i], int(is.batchBytes)); over {
			return classify(fmt.Errorf("kafka: publish to %q: record %q, %d bytes: %w: the topic takes up to %d: %w%s", topic, records[i].ID,
				size, framework.ErrTooLarge, is.batchBytes, kerr.MessageTooLarge, advice(kerr.MessageTooLarge)))
		}
	}
	return nil
}

// written is what is known of a topic that is written.
type written struct {
	partitions int
	batchBytes int32
}

// forget lets the next Publish ask for a topic anew after an error: it may have been deleted and made again, with
// another number of partitions, and the client goes by the topic's internal id.
func (t *Transport) forget(topic string, err error) {
	t.mu.Lock()
	delete(t.topics, topic)
	t.mu.Unlock()
	if errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.client.PurgeTopicsFromProducing(topic)
	}
}

// batchBytes bounds a topic's batches by its max.message.bytes too: brokers refuse a larger one, though each of its
// records may be small. Who may not read the setting has to keep Config.BatchBytes below it.
func (t *Transport) batchBytes(ctx context.Context, topic string) int32 {
	is, err := t.askSettings(ctx, topic)
	if err != nil {
		return int32(t.config.BatchBytes)
	}
	return int32(t.bounded(is[maxMessageBytes]))
}

// batchBytesOf is asked by the client before it makes the first batch of a topic.
func (t *Transport) batchBytesOf(topic string) int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.topics[topic].batchBytes; known > 0 {
		return known
	}
	return int32(t.config.BatchBytes)
}

// wait waits for the answers to what was sent. The client gives up a record after Config.DeliveryTimeout only when it
// knows that it was not written; else it goes on trying, and that is told.
func (t *Transport) wait(ctx context.Context, topic string, sent *sending) error {
	slow := time.NewTicker(2 * t.config.DeliveryTimeout)
	defer slow.Stop()
	for {
		select {
		case <-sent.done:
			return nil
		case <-slow.C:
			t.config.Logger.Warn("kafka: brokers do not say whether they have taken records; the client goes on trying",
				"topic", topic, "records", sent.unanswered())
		case <-ctx.Done():
			select {
			case <-sent.done:
				return nil
			default:
			}
			return fmt.Errorf("kafka: publish to %q: stopped while %d records are not acknowledged: %w",
				topic, sent.unanswered(), context.Cause(ctx))
		}
	}
}

// sending counts the answers to one Publish.
type sending struct {
	done chan struct{}

	mu     sync.Mutex
	left   int
	failed *kgo.Record // the first for which there was an error
	err    error
}

// taken is called by the client for each record.
func (s *sending) taken(r *kgo.Record, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && (s.err == nil || lasting(err) && !lasting(s.err)) {
		s.failed, s.err = r, err
	}
	if s.left--; s.left == 0 {
		close(s.done)
	}
}

func (s *sending) unanswered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

// failure says which record could not be written and why. A batch may be refused for its size though each of its records
// would be taken, where the topic's limit was lowered, or may not be seen: the client goes by the limit that it began with, and
// puts what several publishers send into one batch. So a record counts as too large by its own size only; but dead letters
// do in any case, since these are only cut for it.
func (t *Transport) failure(ctx context.Context, topic string, records []framework.Record, sent *sending) error {
	id, cause, what := "", sent.err, advice(sent.err)
	for _, h := range sent.failed.Headers {
		if h.Key == framework.MetadataID {
			id = string(h.Value)
		}
	}
	if errors.Is(cause, kerr.MessageTooLarge) || errors.Is(cause, kerr.RecordListTooLarge) {
		if is, err := t.writable(ctx, topic); err == nil {
			if err := oversized(topic, records, is); err != nil {
				return err
			}
		}
		if records[0].Type == framework.FaultType {
			cause = fmt.Errorf("%w: %w", framework.ErrTooLarge, cause)
		} else {
			what = ": each record by itself would be taken, but not as many as are sent together. Start again, which asks for the topic's " +
				"max.message.bytes anew; where that may not be seen (DescribeConfigs), set Config.BatchBytes to less than it"
		}
	}
	return classify(fmt.Errorf("kafka: publish to %q: record %q, %d bytes, for partition %d: %w%s",
		topic, id, sizeOf(sent.failed), sent.failed.Partition, cause, what))
}

// advice says what a user can do about an error.
func advice(err error) string {
	switch {
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return ": raise Config.BatchBytes and the topic's max.message.bytes, or send less in one event"
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return ": give the user the operation Write on the topic"
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		return ": give the user the operation IdempotentWrite on the cluster"
	case errors.Is(err, kerr.InvalidTimestamp):
		return ": the topic's message.timestamp.before.max.ms or after.max.ms does not let in the clock of this machine"
	case errors.Is(err, context.DeadlineExceeded):
		return ": no broker has taken it within Config.DeliveryTimeout"
	}
	return ""
}

var (
	// refusals are errors of a record that trying again does not mend.
	refusals = []error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidTopicException, kerr.InvalidRecord,
		kerr.InvalidTimestamp, kerr.PolicyViolation, kerr.UnsupportedForMessageFormat}
	// exclusions are errors after which nothing can be written.
	exclusions = []error{kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.SaslAuthenticationFailed,
		kgo.ErrClientClosed}
)

func isOneOf(err error, list []error) bool {
	for _, target := range list {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

func lasting(err error) bool { return isOneOf(err, refusals) || isOneOf(err, exclusions) }

// classify marks an error: those of the lists are not mended by trying again, and the rest passes, as a broker is away or
// a topic is not there yet.
func classify(err error) error {
	switch {
	case isOneOf(err, refusals):
		return framework.Permanent(err)
	case isOneOf(err, exclusions):
		return framework.Fatal(err)
	}
	return framework.Transient(err)
}

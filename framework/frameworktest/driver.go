package frameworktest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
)

// Config says how a Driver runs pipelines. Its zero value is a default.
type Config struct {
	// Lanes of each task; default 1.
	Lanes int
	// BatchEvents cuts what is sent into batches of so many events; default: one batch for each Send.
	BatchEvents int
	// Partitions of the source topics; default 1. InternalPartitions of re-keyed streams; default 2.
	Partitions, InternalPartitions int
	// Unpositioned makes the source topics as those of stock Pub/Subs are: without positions, so a record that is
	// sent again is known by its id. Default false.
	Unpositioned bool
	// MemoryBytes is the store's memory budget; default: the store's. A small one makes it read from disk.
	MemoryBytes int64
	// Engine changes the engine's configuration before it starts.
	Engine func(*framework.Config)
}

// Driver runs pipelines. Its methods fail the test when the engine does.
type Driver struct {
	t         testing.TB
	config    Config
	pipelines []*framework.Pipeline
	dir       string
	store     *microstore.Store
	topics    *embedded.Transport
	sources   *sources
	runner    *framework.Runner
	stepper   *framework.Stepper
}

// New starts pipelines over a store in a directory of the test's.
func New(t testing.TB, c Config, pipelines ...*framework.Pipeline) *Driver {
	t.Helper()
	if c.Lanes == 0 {
		c.Lanes = 1
	}
	if c.Partitions == 0 {
		c.Partitions = 1
	}
	if c.InternalPartitions == 0 {
		c.InternalPartitions = 2
	}
	d := &Driver{t: t, config: c, pipelines: pipelines, sources: &sources{c.Partitions, c.Unpositioned}, dir: t.TempDir()}
	t.Cleanup(d.Close)
	d.start()
	return d
}

// Close closes the store. The end of the test does it too; a test that makes many Drivers does it earlier. It may be
// called twice.
func (d *Driver) Close() {
	d.t.Helper()
	if d.store == nil {
		return
	}
	if err := d.store.Close(); err != nil {
		d.t.Error(err)
	}
	d.store = nil
}

func (d *Driver) start() {
	d.t.Helper()
	store, err := microstore.Open(microstore.Config{Dir: d.dir, MemoryBytes: d.config.MemoryBytes, GCInterval: -1})
	if err != nil {
		d.t.Fatal(err)
	}
	d.store = store
	topics, err := embedded.New(d.store, embedded.Config{Partitions: 1})
	if err != nil {
		d.t.Fatal(err)
	}
	d.topics = topics
	config := framework.Config{
		Store: d.store, Transport: d.topics, Routes: map[string]framework.Transport{},
		Lanes: d.config.Lanes, InternalPartitions: d.config.InternalPartitions, IdleAfter: -1,
		Retry: framework.Retry{First: time.Nanosecond, Most: time.Nanosecond},
	}
	for _, p := range d.pipelines {
		for _, topic := range p.Sources() {
			config.Routes[topic] = d.sources
		}
	}
	if d.config.Engine != nil {
		d.config.Engine(&config)
	}
	if d.runner, err = framework.New(config, d.pipelines...); err != nil {
		d.t.Fatal(err)
	}
	if d.stepper, err = d.runner.Step(context.Background()); err != nil {
		d.t.Fatal(err)
	}
	d.pump()
}

// Restart closes the store, forgets everything else, and starts again.
func (d *Driver) Restart() {
	d.t.Helper()
	d.Close()
	d.start()
}

// Send feeds records to a source topic. Their offsets and, where missing, ids are set; records with a key go
// to the key's partition.
func (d *Driver) Send(topic string, records ...framework.Record) {
	d.t.Helper()
	parts := make([][]framework.Record, d.config.Partitions)
	for _, r := range records {
		p := framework.Partition(r.Key, len(parts))
		parts[p] = append(parts[p], r)
	}
	for p, part := range parts {
		for len(part) > 0 {
			n := len(part)
			if d.config.BatchEvents > 0 {
				n = min(n, d.config.BatchEvents)
			}
			d.feed(topic, p, part[:n])
			if d.stepper.Full() {
				d.pump()
			}
			part = part[n:]
		}
	}
	d.pump()
}

func (d *Driver) feed(topic string, partition int, records []framework.Record) {
	d.t.Helper()
	from := d.stepper.Position(topic, partition)
	for i := range records {
		records[i].Offset = from + int64(i)
	}
	b := &framework.Batch{Topic: topic, Partition: partition, Records: records, Next: from + int64(len(records)), CaughtUp: true}
	if err := d.stepper.Feed(b); err != nil {
		d.t.Fatal(err)
	}
}

// Send feeds events, encoded as JSON; of one that is Deleted a record without a value.
func Send[T any](d *Driver, topic string, events ...*framework.Event[T]) {
	d.t.Helper()
	codec := framework.JSON[T]()
	var records []framework.Record
	for _, e := range events {
		value, err := codec.Append(nil, &e.Data)
		if err != nil {
			d.t.Fatal(err)
		}
		if e.Deleted {
			value = nil
		}
		records = append(records, framework.Record{
			ID: e.ID(), Type: e.Type, Source: e.Source, Key: e.Key, Time: e.Time, Metadata: e.Metadata, Value: value})
	}
	d.Send(topic, records...)
}

// Advance moves the watermark of all sources to at least t, which fires what timers are due.
func (d *Driver) Advance(t time.Time) {
	d.t.Helper()
	if err := d.stepper.Advance(t); err != nil {
		d.t.Fatal(err)
	}
	d.pump()
}

// End ends all sources: the watermark goes to the end of time.
func (d *Driver) End() {
	d.t.Helper()
	d.Advance(time.Time{})
}

func (d *Driver) pump() {
	d.t.Helper()
	if err := d.stepper.Pump(d.read); err != nil {
		d.t.Fatal(err)
	}
}

// Outputs returns the records that were sent to a topic, in order.
func (d *Driver) Outputs(topic string) []framework.Record {
	d.t.Helper()
	all, _, err := d.read(topic, 0, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	return all
}

func (d *Driver) read(topic string, partition int, from int64) ([]framework.Record, int64, error) {
	var all []framework.Record
	next, err := d.topics.Read(context.Background(), topic, partition, from, func(r framework.Record) error {
		all = append(all, r)
		return nil
	})
	return all, next, err
}

// Outputs returns the events that were sent to a topic, decoded from JSON, in order.
func Outputs[T any](d *Driver, topic string) []*framework.Event[T] {
	d.t.Helper()
	return decoded[T](d, topic, d.Outputs(topic))
}

func decoded[T any](d *Driver, where string, records []framework.Record) (all []*framework.Event[T]) {
	d.t.Helper()
	for _, r := range records {
		e := framework.NewEvent(r.ID, r.Key, r.Time, *new(T))
		e.Type, e.Source, e.Metadata = r.Type, r.Source, r.Metadata
		if e.Deleted = r.Value == nil; e.Deleted {
			all = append(all, e)
			continue
		}
		if err := framework.JSON[T]().Decode(&r, &e.Data); err != nil {
			d.t.Fatal(fmt.Errorf("%s, event %s: %w", where, r.ID, err))
		}
		all = append(all, e)
	}
	return all
}

// Faults returns what went to the dead-letter topics, in order for each pipeline.
func (d *Driver) Faults() []framework.Fault {
	d.t.Helper()
	var all []framework.Fault
	for _, p := range d.pipelines {
		for _, e := range Outputs[framework.Fault](d, p.DeadLetters()) {
			all = append(all, e.Data)
		}
	}
	return all
}

// Resubmit has faults run again, as Runner.Resubmit does.
func (d *Driver) Resubmit(faults ...framework.Fault) {
	d.t.Helper()
	d.again(d.runner.Resubmit(context.Background(), faults...))
}

// Discard gives the events of faults up, as Runner.Discard does.
func (d *Driver) Discard(faults ...framework.Fault) {
	d.t.Helper()
	d.again(d.runner.Discard(context.Background(), faults...))
}

func (d *Driver) again(err error) {
	d.t.Helper()
	if err == nil {
		err = d.stepper.Resubmitted()
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.pump()
}

// Parked returns the keys of all pipelines that are parked.
func (d *Driver) Parked() (all []framework.ParkedKey) {
	d.t.Helper()
	for _, p := range d.pipelines {
		err := d.runner.Parked(p.Name(), func(k framework.ParkedKey) bool { all = append(all, k); return true })
		if err != nil {
			d.t.Fatal(err)
		}
	}
	return all
}

// Counts returns the counts of a node, "step" or, with several pipelines, of the first pipeline that has it.
func (d *Driver) Counts(node string) framework.Counts {
	for _, p := range d.pipelines {
		if c := d.runner.Counts(p.Name(), node); c != (framework.Counts{}) {
			return c
		}
	}
	return framework.Counts{}
}

// History returns the events that a step keeps for a key, decoded from JSON: of all its histories, each oldest first.
func History[T any](d *Driver, step, key string) []*framework.Event[T] {
	d.t.Helper()
	records, err := d.stepper.History(step, key)
	if err != nil {
		d.t.Fatal(err)
	}
	return decoded[T](d, step, records)
}

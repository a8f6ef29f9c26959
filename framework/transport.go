package framework

import (
	"context"
	"errors"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/microstore"
)

// Transport is where topics live. Its methods are safe for concurrent use.
//
// A transport is given to the engine open and is closed by whoever opened it, after Runner.Run has
// returned; the engine closes the subscribers and publishers that it asked for.
type Transport interface {
	// Topic describes a topic; an error that wraps ErrNoTopic when there is none of that name.
	Topic(ctx context.Context, name string) (TopicInfo, error)
	// Subscriber makes what reads topics for the engine: see Batch for what it delivers.
	Subscriber(config SubscriberConfig) (message.Subscriber, error)
	// Publisher makes what writes topics for the engine.
	Publisher(config PublisherConfig) (Publisher, error)
}

// ErrNoTopic is returned by Transport.Topic when the transport has no topic of that name and does not
// make one by itself.
var ErrNoTopic = errors.New("no such topic")

// ErrTooLarge is in the error of Publisher.Publish, and of what RecordChecker.RecordCheck returns, when a record is larger
// than the topic takes, by itself. The engine sends a dead letter again without the event's bytes then, and makes a dead letter
// of another record, with all its bytes (Fault.Refused), in pieces where it needs to be: what caused it is committed. Where keys
// are parked a record with a key is held back instead, with those of its key behind it (Runner.HeldBack).
var ErrTooLarge = errors.New("the record is too large")

// ErrPartitions is in the error of TopicCreator.CreateTopic when the topic is there with another number of partitions, where
// the transport can share it out.
var ErrPartitions = errors.New("the topic is there with another number of partitions")

// TopicInfo describes a topic.
type TopicInfo struct {
	// Partitions is how many there are, at least 1.
	Partitions int
	// Positioned says that records have offsets that a later subscriber can start from. The engine keeps the
	// position with the state, so a record that is delivered again is known by it. Without positions the engine
	// keeps the ids of what it has processed (Source.Remember) and knows such a record by its id; Record.Offset is then
	// where it came in its subscription, for people. Topics between the stages of a pipeline need positions.
	Positioned bool
	// Shared says that partitions are shared out among the members of SubscriberConfig.Group, which may be in several
	// processes: a subscriber reads those that it is assigned, and says so to SubscriberConfig.Assignments.
	Shared bool
	// Bounded says that the topic ends: a subscriber delivers a Batch with End for every partition.
	Bounded bool
	// ID tells the topic from another of the same name: of another cluster, or made anew. The engine keeps it with its
	// positions and refuses to go on with those of another topic. Empty where there is no such thing.
	ID string
	// Size is the number of records or bytes in the topic, for a progress bar; 0 when unknown.
	Size int64
}

// SubscriberConfig says how the engine wants a topic to be read.
type SubscriberConfig struct {
	// Group names the reader, "pipeline". Transports that share out partitions use it; others need not.
	Group string
	// BatchEvents and BatchBytes bound a batch. A batch is whatever has arrived, up to these: a subscriber
	// does not wait for it to fill. A single record over BatchBytes is a batch of its own.
	BatchEvents, BatchBytes int
	// InFlight is how many batches of one partition may be delivered and not yet acknowledged, at least 1.
	InFlight int
	// Start tells the position to read a partition from, asked when reading of the partition begins.
	// Not ok: from the beginning.
	Start func(topic string, partition int) (position int64, ok bool)
	// Together are, for topics with TopicInfo.Shared, all that will be subscribed through this subscriber, those of one
	// stage in one slice: partition n of all topics of a slice is assigned to the same member.
	Together [][]string
	// Assignments is told which partitions come and go; nil where all are read.
	Assignments Assignments
	// Predecessor is what KeepMember was given last, in whichever process had the engine's store before this one: empty
	// when there was none. A store has one process at a time, so that member of the group is dead if it has not left, and
	// a transport need not wait until the brokers find out.
	Predecessor string
	// KeepMember keeps in the store what the brokers know this member by; nil where nobody wants it. It is called before
	// Assignments is told of partitions that were given to the member under that name.
	KeepMember func(name string) error
	// Logger is never nil.
	Logger *slog.Logger
}

// Assignments is what a subscriber of shared topics tells which partitions it reads. group is an index of
// SubscriberConfig.Together, and stands for that partition of all topics there. Calls for one partition do not overlap, those
// for several may.
type Assignments interface {
	// Assign comes before Start is asked and the first batch is delivered. committed holds the positions that the group
	// keeps, by topic: see Marker. Seq begins at 0 again. After an error the partition is not read; a batch with the
	// error as its one record's may be delivered in its place, as where a member cannot be in the group at all.
	Assign(ctx context.Context, group, partition int, committed map[string]int64) error
	// Revoke comes when another member is to have the partition, or the subscriber closes, and nothing more of it is
	// delivered. When it returns, what was decided is sent and its positions are marked, as far as ctx has left time for
	// it. Batches that are still out are acknowledged or refused right after; the subscriber waits for that before it
	// delivers the partition again.
	Revoke(ctx context.Context, group, partition int) error
	// Lose is Revoke when another member may have the partition already: nothing is sent or marked any more.
	Lose(group, partition int)
}

// Marker is a subscriber of shared topics that keeps positions of the group, outside of the engine's store. They are
// where a member without the state, or with an old one, stops repeating what others have done.
type Marker interface {
	// Mark says that everything before position is committed, and that sinks have taken what it caused. Positions of a
	// partition only rise. What is marked at one moment for several topics of a stage is kept together.
	Mark(topic string, partition int, position int64)
	// Committed is the position that the group has of a partition: what Assign would tell its next owner now. It is at most
	// what was marked. Not ok: there is none, or the partition is not this member's any more.
	Committed(topic string, partition int) (position int64, ok bool)
}

// Publisher sends records for the engine.
type Publisher interface {
	// Publish sends records to a topic and returns when the transport has taken responsibility for all of
	// them. Records of one key keep their order; the partition follows from Partition(Key). After an error
	// some may have been sent: the engine sends all again. Calls for one topic do not overlap. The slice is the
	// engine's again when Publish returns; what the records point to may be kept. A record with Watermark goes to every
	// partition, behind what was published before it.
	Publish(ctx context.Context, topic string, records []Record) error
	// Close waits for what runs; it may be called twice.
	Close() error
}

// PublisherConfig says how the engine wants to write.
type PublisherConfig struct {
	// Logger is never nil.
	Logger *slog.Logger
}

// RecordChecker is a Transport that tells before a commit whether a topic takes a record. An event that would send one which
// it does not take fails, as at any step that it does not pass. Without that such a record is found when it is sent: see
// ErrTooLarge.
type RecordChecker interface {
	// RecordCheck is asked at the start, for each sink. What it returns is called for each record, by several goroutines
	// at once: an error for one that the topic does not take, with ErrTooLarge where that is why. It may return nil, where it
	// is not known what the topic takes.
	RecordCheck(ctx context.Context, topic string) func(*Record) error
}

// TopicCreator is a Transport that can make topics. The engine makes its dead-letter and internal
// topics through it, and the topics of sinks where it can.
type TopicCreator interface {
	// CreateTopic makes a topic unless it is there. A topic that is there with another number of partitions
	// is an error that says both. partitions 0: as the transport likes.
	CreateTopic(ctx context.Context, name string, partitions int) error
}

// TopicKeeper is a TopicCreator with topics that no retention trims. The engine makes its internal topics so, which
// have one reader and are released behind it, and its dead letters, which are kept until somebody removes them.
type TopicKeeper interface {
	// CreateKept is CreateTopic for a topic that keeps all records until Release.
	CreateKept(ctx context.Context, name string, partitions int) error
	// Release lets go of the records of a partition before an offset; some of them may stay.
	Release(topic string, partition int, before int64) error
	// Held tells how many records a partition holds from an offset on, or from its oldest, which is start, when that
	// is later; and about how many bytes they take.
	Held(topic string, partition int, from int64) (start, records, bytes int64, err error)
}

// StoreTransport is a Transport whose topics live in the engine's own store: what is sent to them is part
// of the commit that decided it, so there is nothing to relay, to lose or to send twice.
type StoreTransport interface {
	Transport
	// Store returns the store that the topics live in.
	Store() *microstore.Store
	// Append queues records for one partition of a topic into a commit. The records become visible to
	// subscribers when the commit is done, in the order of commits.
	Append(b *microstore.Batch, topic string, partition int, records []Record) error
}

// Resumer is a Publisher of a sink that can be cut back to a position, such as a file. The engine keeps
// the position in the commit that forgets what was sent, and cuts back to it before it sends anything
// after a start; so nothing is in the sink twice or torn.
type Resumer interface {
	// Resume is called once for each topic before the first Publish. Not ok: nothing was ever sent.
	Resume(ctx context.Context, topic string, position int64, ok bool) error
	// Position is the end of what Publish has written to the topic. Called between Publish calls.
	Position(topic string) int64
}

// Batch is what travels through the router as one message: records of one partition, in order. The
// message that carries it is acknowledged when all of the batch is committed.
//
// A subscriber delivers the batches of a partition in order and numbers them, without waiting for one to
// be acknowledged while fewer than SubscriberConfig.InFlight are out. A message that is not acknowledged
// but refused (Nack) means that the engine is stopping: the subscriber delivers no more of the partition.
// A subscriber's Close stops delivery and closes the channel. It does not wait for acknowledgements, unless it passes
// them on to a broker; then it may, for a bounded time.
type Batch struct {
	Topic     string
	Partition int
	// Seq numbers the batches of the partition since Subscribe: 0, 1, 2, …
	Seq uint64
	// Records are in ascending order of Offset; may be empty.
	Records []Record
	// Next is the position after the batch: the one to start from when all of it is done.
	Next int64
	// CaughtUp says that there was nothing more to read when the batch was made. A partition with positions that has
	// nothing to read when its delivery begins says so with a batch without records: until then it does not count as idle.
	CaughtUp bool
	// End says that the partition has no more records, for good. The last batch; the subscriber keeps its
	// channel open until it is closed.
	End bool
	// Origin is where the records come from, for people: a file's name; empty for the topic's.
	Origin string
}

type batchKey struct{}

// NewBatchMessage wraps a batch in the Watermill message that carries it through a router.
func NewBatchMessage(ctx context.Context, b *Batch) *message.Message {
	return message.NewMessageWithContext(context.WithValue(ctx, batchKey{}, b), "", nil)
}

// BatchOf returns the batch that a message carries, or false for another message.
func BatchOf(msg *message.Message) (*Batch, bool) {
	b, ok := msg.Context().Value(batchKey{}).(*Batch)
	return b, ok
}

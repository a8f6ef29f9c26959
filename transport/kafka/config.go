package kafka

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config of a Transport. Brokers is needed; the zero value of all else is the default.
type Config struct {
	// Brokers are where to ask for the cluster first, "host:port" or "host" for port 9092. One that answers is enough.
	Brokers []string
	// ClientID names this program in the brokers' logs and quotas. Default "millrace".
	ClientID string
	// Rack is where this program runs, for brokers that let readers fetch from the nearest replica. Default none.
	Rack string
	// Wait is how long New waits for a broker that answers, CreateTopic for leaders, and whatever is asked of the brokers for
	// an answer. A run that has begun asks again after that. Default 15 s.
	Wait time.Duration

	// TLS encrypts connections, and identifies this program where it has a certificate. Default: no encryption.
	TLS *tls.Config
	// SASL says who this program is. Its zero value: nobody.
	SASL SASL

	// Partitions of a topic that is made without saying how many. Default: the broker's, num.partitions.
	Partitions int
	// Replicas of a topic that is made. Default: the broker's, default.replication.factor.
	Replicas int
	// AutoCreate makes a topic when it is first named, sources too. Default false: a source that is not there is an
	// error, which finds misspelt names. The engine makes sinks, dead letters and the topics between stages in any case,
	// by CreateTopic and CreateKept.
	AutoCreate bool

	// Compression of what is written: "none", "gzip", "snappy", "lz4" or "zstd". Default "lz4".
	Compression string
	// BatchBytes bounds what is written to one partition at once, and so a record, before compression: not more than
	// the broker's message.max.bytes. Default 1,000,012, which is the broker's default less 36 bytes.
	BatchBytes int
	// Linger is how long a partition's batch waits for more records. Default 0: not at all, records that come while
	// one is on its way are batched. The engine gathers outputs too while the answer to the last ones is out, and waits
	// for each answer: a record waits for its own linger and often for the one before it. It pays where brokers are
	// short of processor time and requests are small.
	Linger time.Duration
	// WriteBytes bounds what is written and not yet acknowledged by the brokers; past it Publish waits. Default 32 MiB.
	WriteBytes int
	// DeliveryTimeout is how long a record is tried to be written before Publish returns an error. The engine then
	// publishes it again. At least 1 s; default 30 s.
	DeliveryTimeout time.Duration

	// ReadBytes bounds what is read ahead of each partition, decompressed; a single batch of records over it is taken
	// too. At least 64 KiB; default 1 MiB.
	ReadBytes int
	// ReadUncommitted also reads records of transactions that are not committed or were aborted. Default false.
	ReadUncommitted bool
	// SkipGone reads on at the oldest record that is kept when those at a stored position are gone, by retention or
	// deletion, and logs how many were skipped; and lets a process without state make it from what is left of a topic
	// between stages. Default false: that is an error, and the user decides.
	SkipGone bool

	// Group is put before the names of pipelines, which are their consumer groups: pipeline "orders" is in the group
	// "GROUP.orders", as where a user may read in groups of some names only. A group of another name knows nothing of what
	// was sent, so choose it before the first start. It is also the group of a PubSub that is asked for without one. It
	// does not make two pipelines of one: topics of a pipeline are named after it. Default: the name of the pipeline.
	Group string
	// InstanceID keeps this program's partitions for it while it restarts within SessionTimeout; it must be
	// another one in each program of a group: one that is started with the InstanceID of one that runs takes its place, and
	// the run of that one ends with an error. Default none: the partitions are shared out anew.
	InstanceID string
	// SessionTimeout is how long a member of a consumer group may be silent before its partitions go to others.
	// Default 45 s.
	SessionTimeout time.Duration
	// RebalanceTimeout is how long a member may take to finish and give back partitions. Default 60 s.
	RebalanceTimeout time.Duration
	// CommitInterval is how often a consumer group's progress is committed to the brokers. Default 1 s.
	CommitInterval time.Duration

	// Logger receives what no caller can be told. Of what is tried again, and of the client's warnings, one of a kind comes
	// every ten seconds, and the others at debug level. Default: the logger of who reads or writes last, which for a
	// pipeline is framework.Config.Logger; New, which comes before, then logs nothing.
	Logger *slog.Logger

	client *clientLogger // Logger, for all clients
}

const (
	defaultPort      = "9092"
	defaultWait      = 15 * time.Second
	defaultBatch     = 1_000_012
	leastDelivery    = time.Second
	leastReadBytes   = 64 << 10
	maxPartitions    = 1 << 16
	maxTopicName     = 249
	topicNameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
)

// WithDefaults returns a copy with the defaults filled in.
func (c Config) WithDefaults() Config {
	brokers := slices.Clone(c.Brokers)
	for i, b := range brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			brokers[i] = net.JoinHostPort(strings.Trim(b, "[]"), defaultPort)
		}
	}
	c.Brokers = brokers
	setDefault(&c.ClientID, "millrace")
	setDefault(&c.Wait, defaultWait)
	setDefault(&c.Compression, "lz4")
	setDefault(&c.BatchBytes, defaultBatch)
	setDefault(&c.WriteBytes, 32<<20)
	setDefault(&c.DeliveryTimeout, 30*time.Second)
	setDefault(&c.ReadBytes, 1<<20)
	setDefault(&c.SessionTimeout, 45*time.Second)
	setDefault(&c.RebalanceTimeout, time.Minute)
	setDefault(&c.CommitInterval, time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.SASL.Mechanism = strings.ToUpper(c.SASL.Mechanism)
	if c.SASL.Mechanism == "" && c.SASL.User != "" {
		c.SASL.Mechanism = plainText
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate names every field that cannot be used.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.Brokers) == 0 {
		fault("Brokers is empty: it takes at least one, as localhost:9092")
	}
	for i, b := range c.Brokers {
		if err := checkBroker(b); err != nil {
			fault("Brokers[%d] is %q: %w", i, b, err)
		}
	}
	c = c.WithDefaults()
	if c.Partitions < 0 || c.Partitions > maxPartitions {
		fault("Partitions is %d: it must be 1 to %d, or 0 for the broker's default", c.Partitions, maxPartitions)
	}
	if c.Replicas < 0 || c.Replicas > 1<<15-1 {
		fault("Replicas is %d: it must be 1 to %d, or 0 for the broker's default", c.Replicas, 1<<15-1)
	}
	if _, ok := compressions[c.Compression]; !ok {
		fault("Compression is %q: it must be none, gzip, snappy, lz4 or zstd", c.Compression)
	}
	for _, field := range []struct {
		name         string
		value, least int
	}{{"BatchBytes", c.BatchBytes, 1 << 10}, {"WriteBytes", c.WriteBytes, c.BatchBytes}, {"ReadBytes", c.ReadBytes, leastReadBytes}} {
		if field.value < field.least || field.value > 1<<30 {
			fault("%s is %d: it must be %d to %d", field.name, field.value, field.least, 1<<30)
		}
	}
	for _, field := range []struct {
		name         string
		value, least time.Duration
	}{
		{"Wait", c.Wait, 0},
		{"Linger", c.Linger, 0},
		{"DeliveryTimeout", c.DeliveryTimeout, leastDelivery},
		{"SessionTimeout", c.SessionTimeout, time.Second},
		{"RebalanceTimeout", c.RebalanceTimeout, time.Second},
		{"CommitInterval", c.CommitInterval, 10 * time.Millisecond},
	} {
		if field.value < field.least {
			fault("%s is %s: it must be at least %s", field.name, field.value, field.least)
		}
	}
	faults = append(faults, c.SASL.validate())
	return errors.Join(faults...)
}

func checkBroker(broker string) error {
	if broker == "" {
		return errors.New("it is empty; it must be host:port, as localhost:9092")
	}
	if strings.ContainsAny(broker, "/@ ,") {
		return errors.New("it must be host:port, without a scheme, user or blanks, as localhost:9092")
	}
	_, port, err := net.SplitHostPort(broker)
	if err != nil {
		if strings.Contains(broker, ":") && !strings.HasPrefix(broker, "[") {
			return errors.New("it must be host:port, and an IPv6 address in brackets, as [::1]:9092")
		}
		return nil // no port
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("port %q: it must be 1 to 65535, as in localhost:9092", port)
	}
	return nil
}

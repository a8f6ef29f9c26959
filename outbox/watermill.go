package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// WatermillTopic is a topic of watermill-sql's that a relay sends from, too: its table is as DefaultPostgreSQLSchema or
// DefaultMySQLSchema make it, and its writers stay as they are. Its zero value is the topic of Watermill's forwarder.
//
// A relay moves what is committed there into the outbox, in the order of the table and each batch in one transaction, and
// sends it from there; so all that is promised of events of the outbox holds for these, and so do the calls about them.
// Order per key is as for other writers: that of the commits, where the writers of a key do not run side by side, and all
// write it into the same table: it is moved after its commit, side by side with what is written into the outbox itself and
// into other topics of watermill-sql's.
//
// A message that is no envelope, or that no event can be made of, goes to the dead letters at once: it has no topic to go
// to and no key to hold up. Table.Resend sends one of those as it is, to the topic of that name.
type WatermillTopic struct {
	// Topic is what the writers publish to: of a forwarder's publisher its ForwarderTopic. Default "forwarder_topic",
	// which is the forwarder's.
	Topic string
	// Table and OffsetsTable are what the functions GenerateMessagesTableName and GenerateMessagesOffsetsTableName of
	// watermill-sql return for the topic, where they are set; they stand in statements as they are. Default: the names that
	// watermill-sql gives. The table of offsets need not be there.
	Table, OffsetsTable string

	// Plain says that messages are not in a forwarder's envelope, and are sent to the topic of the same name. Default
	// false.
	Plain bool
	// Unmarshal reads an envelope, where the forwarder has a Marshaler of its own. Default json.Unmarshal.
	Unmarshal func(data []byte, v any) error

	// KeyMetadata is the name of the metadata that holds a message's key. Default framework.MetadataKey.
	KeyMetadata string
	// DefaultKey is the key of messages without that metadata. Default none: they have no order among each other. With one
	// they are sent to each topic in the order of the table, as Watermill's forwarder does, and where a topic has
	// partitions to one of them.
	DefaultKey string

	// ConsumerGroup is the one under which a forwarder has read the topic so far: what it has acknowledged by the start of
	// the relay is passed over, and stays in the table. Default "", as in watermill-sql. Stop the forwarder first.
	ConsumerGroup string
	// SendAcked sends what was acknowledged, too. Default false.
	SendAcked bool
}

func (w WatermillTopic) withDefaults(dialect Dialect) WatermillTopic {
	quote := `"`
	if dialect == MySQL {
		quote = "`"
	}
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&w.Topic, "forwarder_topic")
	set(&w.Table, quote+"watermill_"+w.Topic+quote)
	set(&w.OffsetsTable, quote+"watermill_offsets_"+w.Topic+quote)
	set(&w.KeyMetadata, framework.MetadataKey)
	if w.Unmarshal == nil {
		w.Unmarshal = json.Unmarshal
	}
	return w
}

// validate refuses what watermill-sql refuses, too: the topic stands in statements.
func (w WatermillTopic) validate() error {
	bad := func(c rune) bool {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.ContainsRune("-$:._", c):
			return false
		}
		return true
	}
	if strings.ContainsFunc(w.Topic, bad) {
		return fmt.Errorf("Watermill: topic %q: it must be letters, digits and -$:._", w.Topic)
	}
	if len(w.Topic) > maxNameBytes {
		return fmt.Errorf("Watermill: a topic has %d bytes: at most %d fit", len(w.Topic), maxNameBytes)
	}
	return nil
}

// envelope is what components/forwarder of Watermill makes of a message.
type envelope struct {
	DestinationTopic string            `json:"destination_topic"`
	UUID             string            `json:"uuid"`
	Payload          []byte            `json:"payload"`
	Metadata         map[string]string `json:"metadata"`
}

// open makes an event of a message as it is in the table, and tells its topic.
func (w WatermillTopic) open(uuid string, payload, metadata []byte) (topic string, r framework.Record, err error) {
	msg := message.NewMessage(uuid, payload)
	topic = w.Topic
	if w.Plain {
		if len(metadata) > 0 {
			err = json.Unmarshal(metadata, &msg.Metadata)
		}
		if err != nil {
			return "", r, fmt.Errorf("metadata is not a JSON object of strings: %w", err)
		}
	} else {
		var e envelope
		if err := w.Unmarshal(payload, &e); err != nil {
			return "", r, fmt.Errorf("not a forwarder's envelope: %w", err)
		}
		if e.DestinationTopic == "" {
			return "", r, errors.New("not a forwarder's envelope: it names no destination_topic")
		}
		topic = e.DestinationTopic
		msg = message.NewMessage(e.UUID, e.Payload)
		msg.Metadata = e.Metadata
	}
	r = framework.FromMessage(msg)
	if key := msg.Metadata[w.KeyMetadata]; key != "" {
		r.Key = key
	}
	if r.Key == "" {
		r.Key = w.DefaultKey
	}
	return topic, r, nil
}

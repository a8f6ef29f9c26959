package framework

import (
	"time"
	"unsafe"

	"github.com/ThreeDotsLabs/watermill/message"
)

// recordBytes is what a Record takes besides what it points to.
const recordBytes = int(unsafe.Sizeof(Record{}))

// Record is one event as a transport carries it: attributes and bytes, before decoding or after
// encoding. A record handed over is not changed any more by anybody: its Value and Metadata may be
// shared between goroutines and kept.
type Record struct {
	// ID is the event's id. A source that has none leaves it empty; the event is then named after its
	// place, "topic/partition/offset".
	ID string
	// Type and Source are the CloudEvents attributes of these names; may be empty.
	Type, Source string
	// Key decides the partition and the order; may be empty.
	Key string
	// Time is when the event happened; zero where the transport does not know.
	Time time.Time
	// Value is the payload, encoded. Nil: the record has none. In a compacted topic of Kafka it deletes its key then, and is
	// called a tombstone; a payload that is empty is another thing. See Source.Tombstones.
	Value []byte
	// Metadata holds all other headers; may be nil.
	Metadata map[string]string
	// Schema is what the codec needs to read Value and is no part of the event, such as the header of a CSV file.
	// It stays behind when the event goes on. May be nil; shared by many records.
	Schema map[string]string
	// Causes lists the ids, separated by a space, of the events that this one was made from, and Step names
	// the "pipeline/step" that made it; both empty for an original event.
	Causes, Step string

	// Offset is the record's place in its partition. Set by subscribers.
	Offset int64
	// Line is the line of a file that the record starts at, from 1; 0 where there are no lines.
	Line int64
	// Err is set when the transport could read the bytes of a record (in Value) but not make an event
	// of them; the engine makes a fault of it.
	Err error
	// Watermark marks a record that carries no event but a watermark between the stages of a pipeline:
	// Time is the watermark and Source the producing task. Transports carry it like any record.
	Watermark bool
}

// Metadata keys of a Watermill message that carries an event: the CloudEvents attributes as the
// CloudEvents Kafka binding names them in binary mode.
const (
	MetadataID          = "ce_id"
	MetadataType        = "ce_type"
	MetadataSource      = "ce_source"
	MetadataTime        = "ce_time"
	MetadataKey         = "ce_partitionkey"
	MetadataSpecVersion = "ce_specversion"
	// MetadataCauses lists the ids, separated by a space, of the events that an event was made from.
	MetadataCauses = "ce_causationids"
	// MetadataStep names the pipeline and the step that made an event, "pipeline/step".
	MetadataStep = "ce_millracestep"
	// MetadataWatermark marks a watermark between the stages of a pipeline.
	MetadataWatermark = "ce_millracewatermark"
)

// ToMessage makes a Watermill message of a record. The payload is shared, not copied.
func ToMessage(r *Record) *message.Message {
	msg := message.NewMessage(r.ID, r.Value)
	for k, v := range r.Metadata {
		if k != MetadataKey { // it is the key's, as it is now
			msg.Metadata[k] = v
		}
	}
	msg.Metadata[MetadataSpecVersion] = "1.0"
	set := func(key, value string) {
		if value != "" {
			msg.Metadata[key] = value
		}
	}
	set(MetadataID, r.ID)
	set(MetadataType, r.Type)
	set(MetadataSource, r.Source)
	set(MetadataKey, r.Key)
	if !r.Time.IsZero() {
		msg.Metadata[MetadataTime] = r.Time.UTC().Format(time.RFC3339Nano)
	}
	set(MetadataCauses, r.Causes)
	set(MetadataStep, r.Step)
	if r.Watermark {
		msg.Metadata[MetadataWatermark] = "1"
	}
	return msg
}

// FromMessage makes a record of a Watermill message. The payload is shared, not copied. A message
// without CloudEvents attributes becomes a record with an id (its UUID), a value and metadata. A
// ce_time that cannot be read is an error of the record, not a reason to drop it. A message always has a value, empty where
// it has no payload: Pub/Subs do not tell the two apart.
func FromMessage(msg *message.Message) Record {
	r := Record{ID: msg.UUID, Value: msg.Payload}
	if r.Value == nil {
		r.Value = []byte{}
	}
	for k, v := range msg.Metadata {
		switch k {
		case MetadataID:
			if v != "" {
				r.ID = v
			}
		case MetadataType:
			r.Type = v
		case MetadataSource:
			r.Source = v
		case MetadataKey:
			r.Key = v
		case MetadataTime:
			t, err := time.Parse(time.RFC3339Nano, v)
			if err != nil {
				r.Err = Permanent(err)
				continue
			}
			r.Time = t
		case MetadataCauses:
			r.Causes = v
		case MetadataStep:
			r.Step = v
		case MetadataWatermark:
			r.Watermark = v == "1"
		case MetadataSpecVersion:
		default:
			if r.Metadata == nil {
				r.Metadata = make(map[string]string, len(msg.Metadata))
			}
			r.Metadata[k] = v
		}
	}
	return r
}

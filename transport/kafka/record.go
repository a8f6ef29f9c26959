package kafka

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
)

// Headers of a Kafka record beside those of framework (framework.MetadataID and so on), which are CloudEvents' in
// binary mode.
const (
	// headerUUID is where watermill-kafka's default marshaler keeps a message's UUID.
	headerUUID = "_watermill_message_uuid"
	// headerNoTime marks an event without a time, since every Kafka record has one.
	headerNoTime = "ce_millracenotime"
)

// A record's headers are bounded by these; one that has more becomes a fault.
const (
	maxHeaders     = 1024
	maxHeaderBytes = 256 << 10
)

// specVersion is the version of CloudEvents, "ce_specversion".
const specVersion = "1.0"

// encoder makes Kafka records. The records, their headers and the bytes of them lie in one slice each, which are used
// again when the brokers have taken the records.
type encoder struct {
	records []kgo.Record
	headers []kgo.RecordHeader
	bytes   []byte
}

// headersOf is how many headers a record gets at most.
func headersOf(r *framework.Record) int { return 10 + len(r.Metadata) }

// bytesOf is how many bytes the key and the headers of a record take at most, without what the payload takes.
func bytesOf(r *framework.Record) int {
	n := 2*len(r.Key) + 2*len(r.ID) + len(r.Type) + len(r.Source) + len(r.Causes) + len(r.Step) + len(specVersion) + 64
	for _, v := range r.Metadata {
		n += len(v)
	}
	return n
}

// reset makes room for records, so that nothing moves while they are encoded.
func (e *encoder) reset(records []framework.Record, copies int) {
	headers, bytes := 0, 0
	for i := range records {
		headers += headersOf(&records[i])
		bytes += bytesOf(&records[i])
	}
	if n := len(records) + copies; cap(e.records) < n {
		e.records = make([]kgo.Record, 0, n)
	}
	if cap(e.headers) < headers {
		e.headers = make([]kgo.RecordHeader, 0, headers)
	}
	if cap(e.bytes) < bytes {
		e.bytes = make([]byte, 0, bytes)
	}
	e.records, e.headers, e.bytes = e.records[:0], e.headers[:0], e.bytes[:0]
}

// copy keeps a string's bytes.
func (e *encoder) copy(s string) []byte {
	at := len(e.bytes)
	e.bytes = append(e.bytes, s...)
	return e.bytes[at:len(e.bytes):len(e.bytes)]
}

func (e *encoder) header(key, value string) {
	if value != "" {
		e.headers = append(e.headers, kgo.RecordHeader{Key: key, Value: e.copy(value)})
	}
}

// encode makes a Kafka record for a topic; the partition is still to be set. Its timestamp is now, not the event's time:
// brokers delete by timestamps, and in a topic that keeps a week the events of a replay of last year would be gone
// before anybody has read them.
func (e *encoder) encode(topic string, r *framework.Record, now time.Time) kgo.Record {
	first := len(e.headers)
	k := kgo.Record{Topic: topic, Value: r.Value, Timestamp: now}
	if r.Key != "" {
		k.Key = e.copy(r.Key)
	}
	if k.Value == nil && r.Watermark {
		k.Value = []byte{} // it deletes nothing
	}
	e.header(framework.MetadataSpecVersion, specVersion)
	if r.ID != "" {
		id := e.copy(r.ID)
		e.headers = append(e.headers, kgo.RecordHeader{Key: framework.MetadataID, Value: id}, kgo.RecordHeader{Key: headerUUID, Value: id})
	}
	e.header(framework.MetadataType, r.Type)
	e.header(framework.MetadataSource, r.Source)
	if r.Time.IsZero() {
		e.header(headerNoTime, "1")
	} else {
		at := len(e.bytes)
		e.bytes = r.Time.UTC().AppendFormat(e.bytes, time.RFC3339Nano)
		e.headers = append(e.headers, kgo.RecordHeader{Key: framework.MetadataTime, Value: e.bytes[at:len(e.bytes):len(e.bytes)]})
	}
	e.header(framework.MetadataCauses, r.Causes)
	e.header(framework.MetadataStep, r.Step)
	if r.Watermark {
		e.header(framework.MetadataWatermark, "1")
	}
	for key, value := range r.Metadata {
		if key == framework.MetadataKey { // it came with one: CloudEvents' binding wants it sent beside the record's key
			e.header(key, r.Key)
			continue
		}
		e.headers = append(e.headers, kgo.RecordHeader{Key: key, Value: e.copy(value)})
	}
	k.Headers = e.headers[first:len(e.headers):len(e.headers)]
	return k
}

// decoder makes records of Kafka records of one partition. It remembers the last type, source and step, which are
// mostly those of the next record too.
type decoder struct{ typ, source, step string }

func again(last *string, value []byte) string {
	if string(value) != *last { // does not allocate
		*last = string(value)
	}
	return *last
}

// decode reads a Kafka record into an empty one: a CloudEvents event in binary mode, a message of watermill-kafka, or any
// other. The value is not copied. What cannot be read is an error of the record. It has its id and key all the same, where they
// are among what can be read: by these it is resubmitted.
func (d *decoder) decode(r *framework.Record, k *kgo.Record) {
	r.Offset, r.Value, r.Time = k.Offset, k.Value, k.Timestamp.UTC()
	var id, uuid, causes []byte
	key, size := k.Key, 0
	for i := range k.Headers[:min(len(k.Headers), maxHeaders)] {
		h := &k.Headers[i]
		if size += len(h.Key) + len(h.Value); size > maxHeaderBytes {
			break
		}
		switch h.Key {
		case framework.MetadataID:
			id = h.Value
		case headerUUID:
			uuid = h.Value
		case framework.MetadataType:
			r.Type = again(&d.typ, h.Value)
		case framework.MetadataSource:
			r.Source = again(&d.source, h.Value)
		case framework.MetadataStep:
			r.Step = again(&d.step, h.Value)
		case framework.MetadataCauses:
			causes = h.Value
		case framework.MetadataKey:
			if len(key) == 0 {
				key = h.Value
			}
			addMetadata(r, h, len(k.Headers)-i)
		case framework.MetadataTime:
			var at time.Time
			if err := at.UnmarshalText(h.Value); err != nil {
				r.Err = framework.Permanent(fmt.Errorf("kafka: header %s: %w", framework.MetadataTime, err))
				continue
			}
			r.Time = at.UTC()
		case headerNoTime:
			r.Time = time.Time{}
		case framework.MetadataWatermark:
			r.Watermark = len(h.Value) == 1 && h.Value[0] == '1'
		case framework.MetadataSpecVersion:
		default:
			addMetadata(r, h, len(k.Headers)-i)
		}
	}
	if len(id) == 0 {
		id = uuid
	}
	r.ID, r.Key, r.Causes = together(id, key, causes)
	switch {
	case len(k.Headers) > maxHeaders:
		r.Err = fmt.Errorf("kafka: record has %d headers; at most %d are read", len(k.Headers), maxHeaders)
	case size > maxHeaderBytes:
		r.Err = fmt.Errorf("kafka: record has more than %d bytes of headers", maxHeaderBytes)
	default:
		return
	}
	r.Err, r.Metadata, r.Watermark = framework.Permanent(r.Err), nil, false
}

// addMetadata keeps a header as it is; room is for how many there may be.
func addMetadata(r *framework.Record, h *kgo.RecordHeader, room int) {
	if r.Metadata == nil {
		r.Metadata = make(map[string]string, room)
	}
	r.Metadata[h.Key] = string(h.Value)
}

// together makes strings of three slices in one allocation.
func together(a, b, c []byte) (x, y, z string) {
	var room [256]byte
	all := append(append(append(room[:0], a...), b...), c...)
	s := string(all)
	return s[:len(a)], s[len(a) : len(a)+len(b)], s[len(a)+len(b):]
}

// sizeOf is what a Kafka record counts for the bounds of batches and of reading ahead.
func sizeOf(k *kgo.Record) int {
	n := len(k.Key) + len(k.Value)
	for i := range k.Headers {
		n += len(k.Headers[i].Key) + len(k.Headers[i].Value)
	}
	return n
}

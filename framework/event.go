package framework

import (
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/ident"
)

// Event is one thing that happened, decoded. A step gets a pointer to it and must not change it, but make
// another (Map does); it may keep the pointer.
type Event[T any] struct {
	Header
	// Data is the payload.
	Data T
	// raw has the payload as it came, where it came as JSON, so that it need not be encoded again; else nil.
	raw *Record
}

// Header holds the attributes of an event that do not depend on its type.
type Header struct {
	// Key owns the event: events of one key are processed in order, and histories are kept by key.
	Key string
	// Time is when the event happened; windows, expiry and order in a history go by it.
	Time time.Time
	// Type and Source are the CloudEvents attributes of these names.
	Type, Source string
	// Metadata holds other headers. Shared: copy it before you change it. May be nil.
	Metadata map[string]string
	// Deleted says that there is no data: the record had no value, which deletes its key where the topic is compacted. Data is
	// the zero value. Only sources that pass such events on have them, see Source.Tombstones, and steps that set it: a sink
	// writes a record without a value.
	Deleted bool

	untimed bool // its time is not what the source's Time would say

	id     string     // the event's own id or, while path is not zero, that of the event it was made from
	path   ident.Path // the steps that made another event of it, since id was last resolved
	causes string     // ids that this event was made from, separated by spaces
	step   string     // "pipeline/step" that made it
	origin *Batch     // where a source found it; with offset it names events that have no id
	offset int64
	line   int64
}

// NewEvent makes an event, for tests and for programs that feed pipelines.
func NewEvent[T any](id, key string, t time.Time, data T) *Event[T] {
	return &Event[T]{Header: Header{Key: key, Time: t, id: id}, Data: data}
}

// ID names the event. The id of an event that a step made is a function of the pipeline, the step and the
// ids of the events that it was made from: never of arrival order, wall time or chance.
func (h *Header) ID() string {
	if h.id == "" && h.origin != nil {
		h.id = h.origin.Topic + "/" + strconv.Itoa(h.origin.Partition) + "/" + strconv.FormatInt(h.offset, 10)
	}
	if h.path != 0 {
		h.causes = h.id
		h.id = ident.One(h.path, h.id)
		h.path = 0
	}
	return h.id
}

// Causes returns the ids of the events that this one was made from, nil for an original event.
func (h *Header) Causes() []string {
	h.ID()
	if h.causes == "" {
		return nil
	}
	return strings.Fields(h.causes)
}

// Place says where the event was found, for people: "flights.csv.gz:17" or "orders/0@42"; empty for an
// event that a step made or a test fed.
func (h *Header) Place() string {
	switch {
	case h.origin == nil:
		return ""
	case h.line > 0:
		name := h.origin.Origin
		if name == "" {
			name = h.origin.Topic
		}
		return name + ":" + strconv.FormatInt(h.line, 10)
	}
	return h.origin.Topic + "/" + strconv.Itoa(h.origin.Partition) + "@" + strconv.FormatInt(h.offset, 10)
}

// clock is the time by which the event moves its source's watermark; zero for none.
func (h *Header) clock() time.Time {
	if h.untimed {
		return time.Time{}
	}
	return h.Time
}

// fill sets a record's attributes to those of the event.
func (h *Header) fill(r *Record) {
	r.ID = h.ID()
	r.Type, r.Source, r.Key, r.Time = h.Type, h.Source, h.Key, h.Time
	r.Metadata, r.Causes, r.Step = h.Metadata, h.causes, h.step
}

// fromRecord fills the header from a record found in a batch.
func (h *Header) fromRecord(r *Record, origin *Batch) {
	*h = Header{
		Key: r.Key, Time: r.Time, Type: r.Type, Source: r.Source, Metadata: r.Metadata,
		id: r.ID, causes: r.Causes, step: r.Step, origin: origin, offset: r.Offset, line: r.Line,
	}
}

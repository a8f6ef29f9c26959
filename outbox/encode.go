package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/millrace/millrace/framework"
)

var (
	// ErrTooLarge is returned by Publish for an event over Config.MaxRowBytes.
	ErrTooLarge = errors.New("the event is too large")
	// ErrNoKey is returned by Publish for an event without a key, with Config.RequireKey.
	ErrNoKey = errors.New("the event has no key")
	// ErrText is returned by Publish where text holds what a database does not keep: bytes that are not UTF-8, or a
	// zero byte. Payloads and keys are bytes and may hold anything.
	ErrText = errors.New("not text that a database keeps")
)

// What fits into the columns of every database.
const (
	maxNameBytes = 255
	maxKeyBytes  = 1024
)

const insertWidth = 9

// encoded is an event as arguments of an INSERT, in the order of columns.
type encoded struct {
	args  [insertWidth]any
	bytes int
}

// encode checks an event and makes a row of it. The id of an event without one is made here, so that it is the same
// however often the event is sent.
func (t *Table) encode(topic string, r *framework.Record) (row encoded, err error) {
	id := r.ID
	if id == "" {
		id = watermill.NewUUID()
	}
	metadata, err := encodeMetadata(r)
	if err != nil {
		return row, err
	}
	when := ""
	if !r.Time.IsZero() {
		text, err := r.Time.UTC().MarshalText() // RFC 3339, with nanoseconds
		if err != nil {
			return row, fmt.Errorf("time: %w", err)
		}
		when = string(text)
	}
	if err := errors.Join(
		checkName("topic", topic), checkName("id", id), checkName("type", r.Type), checkName("source", r.Source),
	); err != nil {
		return row, err
	}
	switch {
	case topic == "":
		return row, errors.New("the topic is empty")
	case len(r.Key) > maxKeyBytes:
		return row, fmt.Errorf("%w: its key has %d bytes, at most %d fit", ErrTooLarge, len(r.Key), maxKeyBytes)
	case r.Key == "" && t.config.RequireKey:
		return row, fmt.Errorf("%w, and Config.RequireKey is set: set Record.Key (or the metadata %q of a message)", ErrNoKey, framework.MetadataKey)
	case r.Watermark:
		return row, errors.New("it is a watermark: those travel between the stages of a pipeline only")
	case r.Err != nil:
		return row, fmt.Errorf("it was not read well: %w", r.Err)
	}
	row.bytes = len(topic) + len(id) + len(r.Type) + len(r.Source) + len(r.Key) + len(metadata) + len(when) + len(r.Value)
	if limit := t.config.MaxRowBytes; limit > 0 && row.bytes > limit {
		return row, fmt.Errorf("%w: %d bytes, Config.MaxRowBytes is %d", ErrTooLarge, row.bytes, limit)
	}
	var stored any // NULL, unless there is some
	if metadata != "" {
		stored = metadata
	}
	row.args = [insertWidth]any{
		int64(slotOf(r.Key, id)), topic, []byte(r.Key), id, r.Type, r.Source, when, stored, r.Value,
	}
	return row, nil
}

// slotOf tells a key's slot. Events without a key have no order, so they are spread.
func slotOf(key, id string) int {
	if key == "" {
		key = id
	}
	return framework.Partition(key, Slots)
}

func checkName(field, text string) error {
	if len(text) > maxNameBytes {
		return fmt.Errorf("%w: its %s has %d bytes, at most %d fit", ErrTooLarge, field, len(text), maxNameBytes)
	}
	return checkText(field, text)
}

func checkText(field, text string) error {
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return fmt.Errorf("%w: its %s is %q: encode it, as base64 for instance", ErrText, field, text)
	}
	return nil
}

// encodeMetadata writes metadata and lineage as a JSON object; "" when there is nothing.
func encodeMetadata(r *framework.Record) (string, error) {
	if len(r.Metadata) == 0 && r.Causes == "" && r.Step == "" {
		return "", nil
	}
	all := make(map[string]string, len(r.Metadata)+2)
	for k, v := range r.Metadata {
		if err := errors.Join(checkText("metadata key", k), checkText("metadata "+k, v)); err != nil {
			return "", err
		}
		all[k] = v
	}
	for k, v := range map[string]string{framework.MetadataCauses: r.Causes, framework.MetadataStep: r.Step} {
		if err := checkText(k, v); err != nil {
			return "", err
		}
		if v != "" {
			all[k] = v
		}
	}
	text, err := json.Marshal(all)
	return string(text), err
}

// decodeInto reads metadata and time of a row back. What somebody else has written into them may not be readable; the
// error is for the row, which is parked.
func decodeInto(r *framework.Record, when, metadata string) error {
	if when != "" {
		t, err := time.Parse(time.RFC3339Nano, when)
		if err != nil {
			return fmt.Errorf("event_time: %w", err)
		}
		r.Time = t
	}
	if metadata != "" {
		if err := json.Unmarshal([]byte(metadata), &r.Metadata); err != nil {
			return fmt.Errorf("metadata is not a JSON object of strings: %w", err)
		}
	}
	take := func(key string) (value string) {
		value = r.Metadata[key]
		delete(r.Metadata, key)
		return value
	}
	r.Causes, r.Step = take(framework.MetadataCauses), take(framework.MetadataStep)
	return nil
}

package file

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/millrace/millrace/framework"
)

// line is an event as a Dir keeps it: CloudEvents' JSON format, with the metadata in a member of its own.
type line struct {
	SpecVersion string            `json:"specversion"`
	ID          string            `json:"id,omitempty"`
	Type        string            `json:"type,omitempty"`
	Source      string            `json:"source,omitempty"`
	Time        string            `json:"time,omitempty"`
	Key         string            `json:"partitionkey,omitempty"`
	Causes      string            `json:"causationids,omitempty"`
	Step        string            `json:"millracestep,omitempty"`
	Watermark   bool              `json:"millracewatermark,omitzero"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	// One of these: a value that is JSON on one line, as it is, or any other; none where there is no value.
	Data       jsontext.Value `json:"data,omitzero"`
	DataBase64 *string        `json:"data_base64,omitzero"`
}

const specVersion = "1.0"

// appendLine appends a record as a line. The bytes follow from the record alone: what is sent twice is the same line.
func appendLine(buf []byte, r *framework.Record) ([]byte, error) {
	l := line{
		SpecVersion: specVersion, ID: r.ID, Type: r.Type, Source: r.Source, Key: r.Key, Causes: r.Causes, Step: r.Step,
		Watermark: r.Watermark, Metadata: r.Metadata,
	}
	if !r.Time.IsZero() {
		l.Time = r.Time.UTC().Format(time.RFC3339Nano)
	}
	// Kept apart from the rest of the object, since encoding would put another spelling of the same JSON there.
	plain := jsontext.Value(r.Value).IsValid() && len(bytes.TrimSpace(r.Value)) == len(r.Value) && !bytes.ContainsAny(r.Value, "\r\n")
	if r.Value != nil && !plain {
		text := base64.StdEncoding.EncodeToString(r.Value)
		l.DataBase64 = &text
	}
	text, err := json.Marshal(l, json.Deterministic(true))
	if err != nil {
		return buf, framework.Permanent(fmt.Errorf("an attribute is not UTF-8: %w", err))
	}
	if plain {
		text = append(append(append(text[:len(text)-1], `,"data":`...), r.Value...), '}')
	}
	if len(text) > maxLineBytes {
		return buf, framework.Permanent(fmt.Errorf("%w: as a line it has %d bytes, and at most %d can be read",
			framework.ErrTooLarge, len(text), maxLineBytes))
	}
	return append(append(buf, text...), '\n'), nil
}

// fromLine makes an event of a line, which is in the record's value. A line that is no CloudEvent stays as it is.
func fromLine(r *framework.Record) {
	var l line
	if r.Err != nil || json.Unmarshal(r.Value, &l) != nil || l.SpecVersion == "" {
		return
	}
	text := r.Value
	r.ID, r.Type, r.Source, r.Key, r.Causes, r.Step = l.ID, l.Type, l.Source, l.Key, l.Causes, l.Step
	r.Watermark, r.Metadata, r.Value = l.Watermark, maps.Clone(l.Metadata), l.Data
	var err error
	if l.DataBase64 != nil {
		r.Value, err = base64.StdEncoding.DecodeString(*l.DataBase64)
	}
	if err == nil && l.Time != "" {
		r.Time, err = time.Parse(time.RFC3339Nano, l.Time)
	}
	if err != nil {
		r.Value, r.Err = text, framework.Permanent(fmt.Errorf("file: line %d: it is no CloudEvent: %w", r.Line, err))
	}
}

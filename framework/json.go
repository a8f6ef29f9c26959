package framework

import (
	"bytes"
	"sync"

	"github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"
)

// JSON is the default codec: version 2 of Go's encoding/json, which becomes part of the standard library. It is
// strict, so that a payload with invalid UTF-8 or a field given twice becomes a fault instead of another value;
// field names match in any case. The same value always gives the same bytes.
//
// docs/adr/0002-json.md has the libraries that were measured.
func JSON[T any]() Codec[T] { return jsonCodec[T]{} }

var jsonOptions = json.JoinOptions(
	json.Deterministic(true),
	json.MatchCaseInsensitiveNames(true),
	jsonv1.FormatDurationAsNano(true),
)

type jsonCodec[T any] struct{}

func (jsonCodec[T]) Decode(r *Record, v *T) error { return json.Unmarshal(r.Value, v, jsonOptions) }

// jsonBuffers lets Append encode where the bytes are to be: it takes a third less time than encoding into a
// slice of their own, and no allocation.
var jsonBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (jsonCodec[T]) Append(dst []byte, v *T) ([]byte, error) { return appendJSON(dst, v) }

// appendJSON is not generic, so that it is compiled here: in a user's package NewBuffer may not be inlined, and its buffer
// is then an allocation for each value.
func appendJSON(dst []byte, v any) ([]byte, error) {
	b := jsonBuffers.Get().(*bytes.Buffer)
	defer jsonBuffers.Put(b)
	*b = *bytes.NewBuffer(dst)
	err := json.MarshalWrite(b, v, jsonOptions)
	encoded := b.Bytes()
	*b = bytes.Buffer{} // dst is the caller's
	if err != nil {
		return nil, err
	}
	return encoded, nil
}

func isJSON[T any](c Codec[T]) bool {
	_, ok := c.(jsonCodec[T])
	return ok
}

// Bytes is the codec of payloads that are passed on as they are.
func Bytes() Codec[[]byte] { return bytesCodec{} }

type bytesCodec struct{}

func (bytesCodec) Decode(r *Record, v *[]byte) error { *v = r.Value; return nil }

func (bytesCodec) Append(dst []byte, v *[]byte) ([]byte, error) { return append(dst, *v...), nil }

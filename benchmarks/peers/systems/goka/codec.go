package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

type jsonCodec[T any] struct{}

func (jsonCodec[T]) Encode(v any) ([]byte, error) { return json.Marshal(v) }

func (jsonCodec[T]) Decode(b []byte) (any, error) {
	v := new(T)
	return v, json.Unmarshal(b, v)
}

// event is an order or a payment as a history keeps it.
type event struct {
	kind      byte // 'o', 'p'
	id, order string
	raw       []byte
}

// history is the value of a customer in the group table. It is read and written as a whole for each event; as JSON that
// takes twice as long.
type history []event

type historyCodec struct{}

func (historyCodec) Encode(v any) ([]byte, error) {
	past, ok := v.(history)
	if !ok {
		return nil, fmt.Errorf("goka: %T is no history", v)
	}
	size := 0
	for _, e := range past {
		size += 1 + len(e.id) + len(e.order) + len(e.raw) + 3*binary.MaxVarintLen16
	}
	b := make([]byte, 0, size)
	for _, e := range past {
		b = append(b, e.kind)
		b = append(binary.AppendUvarint(b, uint64(len(e.id))), e.id...)
		b = append(binary.AppendUvarint(b, uint64(len(e.order))), e.order...)
		b = append(binary.AppendUvarint(b, uint64(len(e.raw))), e.raw...)
	}
	return b, nil
}

func (historyCodec) Decode(b []byte) (any, error) {
	past := history{}
	for len(b) > 0 {
		e := event{kind: b[0]}
		b = b[1:]
		for _, field := range []func([]byte){
			func(v []byte) { e.id = string(v) }, func(v []byte) { e.order = string(v) }, func(v []byte) { e.raw = v },
		} {
			n, width := binary.Uvarint(b)
			if width <= 0 || n > uint64(len(b)-width) {
				return nil, fmt.Errorf("goka: a history is cut after %d events", len(past))
			}
			field(b[width : width+int(n)])
			b = b[width+int(n):]
		}
		past = append(past, e)
	}
	return past, nil
}

package main

import (
	"encoding/binary"
	"encoding/json"
	"hash/maphash"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/dgraph-io/badger/v4"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
	"github.com/millrace/millrace/benchmarks/peers/internal/system"
)

// joiner is W2: each message is a transaction that reads the history of its customer and adds to it. Locks keep an order
// and its payment, which come to two handlers, from missing each other; Badger would not see that as a conflict.
type joiner struct {
	task  *system.Task
	db    *badger.DB
	seed  maphash.Seed
	locks [64]sync.Mutex
}

func openJoiner(task *system.Task) (*joiner, error) {
	db, err := badger.Open(badger.DefaultOptions(task.State).WithLoggingLevel(badger.ERROR))
	return &joiner{task: task, db: db, seed: maphash.MakeSeed()}, err
}

// event is an order or a payment. In a history its key is customer, 0, time, kind and id.
type event struct {
	kind                byte // 'o', 'p'
	id, order, customer string
	amount              int
	ts                  int64
	raw                 []byte
}

func (j *joiner) order(m *message.Message) ([]*message.Message, error) {
	var o orders.Order
	if err := json.Unmarshal(m.Payload, &o); err != nil {
		return nil, err
	}
	return j.join(event{'o', o.ID, o.ID, o.Customer, o.Amount, o.Ts, m.Payload})
}

func (j *joiner) payment(m *message.Message) ([]*message.Message, error) {
	var p orders.Payment
	if err := json.Unmarshal(m.Payload, &p); err != nil {
		return nil, err
	}
	return j.join(event{'p', p.ID, p.Order, p.Customer, p.Amount, p.Ts, m.Payload})
}

func (j *joiner) join(e event) ([]*message.Message, error) {
	j.task.Consuming()
	lock := &j.locks[maphash.String(j.seed, e.customer)%uint64(len(j.locks))]
	lock.Lock()
	defer lock.Unlock()
	other := ""
	err := j.db.Update(func(txn *badger.Txn) (err error) {
		prefix := append([]byte(e.customer), 0)
		if other, err = partner(txn, prefix, e); err != nil {
			return err
		}
		key := append(binary.BigEndian.AppendUint64(prefix, uint64(e.ts)), e.kind)
		value := append([]byte{byte(len(e.order))}, e.order...)
		return txn.Set(append(key, e.id...), append(value, e.raw...))
	})
	if err != nil || other == "" {
		return nil, err
	}
	payment := e.id
	if e.kind == 'o' {
		payment = other
	}
	confirmed := orders.Confirm(e.order, payment, e.customer, e.amount)
	return output(e.customer, &confirmed)
}

// partner looks through a history for the event of the other kind of the same order, and returns its id, "" if there
// is none.
func partner(txn *badger.Txn, prefix []byte, e event) (id string, err error) {
	options := badger.DefaultIteratorOptions
	options.Prefix = prefix
	it := txn.NewIterator(options)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().Key()[len(prefix)+8:]
		if key[0] == e.kind {
			continue
		}
		err := it.Item().Value(func(value []byte) error {
			if string(value[1:1+value[0]]) == e.order {
				id = string(key[1:])
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return id, nil
}

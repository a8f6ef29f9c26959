package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/millrace/millrace/framework"
)

// checker reads what comes out, compares each output with those before it, and knows what is missing.
type checker struct {
	s      *settings
	in     *input
	topics topics
	// record hears of each record that is read.
	record func(topic string, partition int, r *framework.Record)

	next       map[topicPartition]int64
	values     map[output]string // by what is not to come twice with other bytes
	duplicates int
	problems   []string

	numbered counter
	products counter
	totals   counter
	items    map[item]bool
	pairs    map[pair]bool
	decided  map[string]string // payment, by order
	windows  map[string]bool   // orders
	expired  map[string]bool
	faults   faultsSeen
}

type topicPartition struct {
	topic     string
	partition int
}

type output struct{ topic, id, key string }

// topics are what a checker reads.
type topics interface {
	framework.TopicReader
	Topic(ctx context.Context, name string) (framework.TopicInfo, error)
}

func newChecker(s *settings, in *input, topics topics) *checker {
	return &checker{
		s: s, in: in, topics: topics, record: func(string, int, *framework.Record) {},
		next: map[topicPartition]int64{}, values: map[output]string{},
		numbered: newCounter(), products: newCounter(), totals: newCounter(), items: map[item]bool{}, pairs: map[pair]bool{},
		decided: map[string]string{}, windows: map[string]bool{}, expired: map[string]bool{}, faults: newFaultsSeen(),
	}
}

func (c *checker) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// read takes what has come since the last time. A topic that nobody has made yet has nothing.
func (c *checker) read(ctx context.Context) error {
	for _, name := range append([]string{faultsTopic}, outputs...) {
		info, err := c.topics.Topic(ctx, c.s.topic(name))
		if err != nil {
			if name == faultsTopic { // it is made when the pipeline begins
				continue
			}
			return err
		}
		for p := range info.Partitions {
			at := topicPartition{name, p}
			c.next[at], err = c.topics.Read(ctx, c.s.topic(name), p, c.next[at], func(r framework.Record) error {
				c.record(name, p, &r)
				c.take(name, &r)
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) take(topic string, r *framework.Record) {
	if r.Err != nil {
		c.problem("%s: record %s cannot be read: %v", topic, r.ID, r.Err)
		return
	}
	of := output{topic, r.ID, r.Key}
	if first, ok := c.values[of]; ok {
		c.duplicates++
		if first != string(r.Value) && topic != faultsTopic { // a fault says how often it was tried
			c.problem("OTHER BYTES %s: id %s of key %s came as %s and as %s", topic, r.ID, r.Key, first, r.Value)
		}
		return
	}
	c.values[of] = string(r.Value)
	if err := c.takeNew(topic, r.Value); err != nil {
		c.problem("%s: record %s: %v", topic, r.ID, err)
	}
}

// takeNew takes an output whose id has not been there before; so what it is about must not have been there either.
func (c *checker) takeNew(topic string, value []byte) error {
	switch topic {
	case numberedTopic:
		return take(value, func(n numbered) { c.count(topic, c.numbered, n) })
	case productsTopic:
		return take(value, func(n numbered) { c.count(topic, c.products, n) })
	case totalsTopic:
		return take(value, func(n numbered) { c.count(topic, c.totals, n) })
	case itemsTopic:
		return take(value, func(i item) { once(c, topic, c.items, i) })
	case pairsTopic:
		return take(value, func(p pair) { once(c, topic, c.pairs, p) })
	case windowsTopic:
		return take(value, func(w window) {
			for _, o := range w.Orders {
				once(c, topic, c.windows, o)
			}
		})
	case expiredTopic:
		return take(value, func(d decision) { once(c, topic, c.expired, d.Order) })
	case decidedTopic:
		return take(value, func(d decision) {
			if other, ok := c.decided[d.Order]; ok {
				c.problem("TWICE %s: order %s under other ids, with payments %q and %q", topic, d.Order, other, d.Payment)
			}
			c.decided[d.Order] = d.Payment
		})
	default: // dead letters
		return take(value, func(f framework.Fault) { c.fault(&f) })
	}
}

func take[T any](value []byte, f func(T)) error {
	var v T
	if err := json.Unmarshal(value, &v); err != nil {
		return err
	}
	f(v)
	return nil
}

func once[K comparable](c *checker, topic string, seen map[K]bool, k K) {
	if seen[k] {
		c.problem("TWICE %s: %v under other ids", topic, k)
	}
	seen[k] = true
}

// counter is a topic whose outputs are numbered.
type counter struct {
	keys   map[string][]string // orders by key, as they came
	orders map[string]bool
}

func newCounter() counter { return counter{map[string][]string{}, map[string]bool{}} }

// count takes a numbered output: it has to be the next one of its key.
func (c *checker) count(topic string, in counter, n numbered) {
	once(c, topic, in.orders, n.Order)
	in.keys[n.Key] = append(in.keys[n.Key], n.Order)
	if came := len(in.keys[n.Key]); n.N != came {
		c.problem("NUMBER %s: order %s is the %d. that comes for %s, and has number %d", topic, n.Order, came, n.Key, n.N)
	}
}

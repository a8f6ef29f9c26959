package framework

import "maps"

// Lag is how far a partition of a source is from the end of its topic.
type Lag struct {
	Topic     string
	Partition int
	// Position is the next to be processed, as of the last commit; End the one that the next record will be written to.
	Position, End int64
}

// Behind is how many positions are to be processed. That is about as many records: a position may be without one, as
// where a topic is compacted.
func (l Lag) Behind() int64 { return max(0, l.End-l.Position) }

// Lag returns how far the sources of a pipeline are behind, those between its stages too: for each partition that this
// process has, of which anything has been read, and whose subscriber is an EndTeller. It asks nobody, so it is cheap.
func (r *Runner) Lag(pipeline string) (all []Lag) {
	r.setsLock.RLock()
	sets := r.sets
	r.setsLock.RUnlock()
	for _, set := range sets {
		if set.stage.pipeline.name == pipeline {
			all = append(all, set.lag()...)
		}
	}
	return all
}

// EndTeller is a message.Subscriber that knows where the partitions end that it reads.
type EndTeller interface {
	// End is the position behind the newest record of a partition, as it is known without asking anybody: where the
	// records come from a broker, as of the last answer to a fetch. Not ok: it does not read the partition.
	End(topic string, partition int) (end int64, ok bool)
}

func (s *taskSet) lag() (all []Lag) {
	for topic, teller := range s.tellers() {
		for partition := range s.partitions() {
			t := s.get(partition)
			if t == nil {
				continue
			}
			next, known := t.tally.position(topic)
			end, ok := teller.End(topic, partition)
			if known && ok {
				all = append(all, Lag{topic, partition, next, end})
			}
		}
	}
	return all
}

func (s *taskSet) tellers() map[string]EndTeller {
	s.lock.RLock()
	defer s.lock.RUnlock()
	return maps.Clone(s.ends)
}

// reads notes what subscriber a topic is read through.
func (s *taskSet) reads(topic string, subscriber any) {
	if teller, ok := subscriber.(EndTeller); ok {
		s.lock.Lock()
		defer s.lock.Unlock()
		s.ends[topic] = teller
	}
}

func (y *tally) position(topic string) (next int64, known bool) {
	y.lock.Lock()
	defer y.lock.Unlock()
	next, known = y.next[topic]
	return next, known
}

// notePositions notes where the task begins.
func (t *task) notePositions() {
	for _, src := range t.sources {
		if src.known {
			t.tally.moved(src.topic, src.next)
		}
	}
}

// moved notes how far a source is processed.
func (y *tally) moved(topic string, next int64) {
	y.lock.Lock()
	defer y.lock.Unlock()
	y.next[topic] = next
}

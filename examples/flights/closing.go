package flights

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/file"
)

// attemptName is the value of the store that counts the times that the topics have been closed. Each moves event time
// further, so that the tasks tell how far they are even where they had come to the last one's end.
const attemptName = "flights.closings"

// closings begin long after all that happens.
var closings = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	betweenClosings = 7 * 24 * time.Hour
	// heldBack is more than the steps of the pipeline hold back event time.
	heldBack = 3 * 24 * time.Hour
)

// closeTopics sends a closing row to each partition of the sources, and returns how many tasks will come to that time.
func (t *transported) closeTopics(ctx context.Context) (tasks int, err error) {
	raw, _, err := t.state.store.Get(attemptName)
	if err != nil {
		return 0, err
	}
	attempt, _ := strconv.Atoi(string(raw))
	attempt++
	if err := t.state.put(ctx, attemptName, strconv.AppendInt(nil, int64(attempt), 10)); err != nil {
		return 0, err
	}
	end := closings.Add(time.Duration(attempt) * betweenClosings)
	info, err := t.topics.Topic(ctx, t.prefix+FlightsTopic)
	if err != nil {
		return 0, err
	}
	t.reached.await(end.Add(-heldBack))
	var flights, weather []framework.Record
	for partition := range info.Partitions {
		airport := closingAirport(partition, info.Partitions)
		if flights, err = appendClosing(flights, airport, end.Add(t.lateness), closingFlight); err != nil {
			return 0, err
		}
		if weather, err = appendClosing(weather, airport, end.Add(t.weatherLate), closingWeather); err != nil {
			return 0, err
		}
	}
	if err := t.publisher.Publish(ctx, t.prefix+FlightsTopic, flights); err != nil {
		return 0, err
	}
	return info.Partitions + t.partitions, t.publisher.Publish(ctx, t.prefix+WeatherTopic, weather)
}

// closingAirport is a key of a partition that no airport has.
func closingAirport(partition, partitions int) string {
	for n := 0; ; n++ {
		if airport := fmt.Sprintf("closing-%d", n); framework.Partition(airport, partitions) == partition {
			return airport
		}
	}
}

func appendClosing[T interface{ ID() string }](records []framework.Record, airport string, at time.Time, row func(string, time.Time) T) ([]framework.Record, error) {
	closing := row(airport, at)
	value, err := file.CSV[T]().Append(nil, &closing)
	return append(records, framework.Record{ID: closing.ID(), Key: airport, Time: at, Value: value}), err
}

const someHour HourUTC = "2100-01-01T00:00:00Z"

// closingFlight is one that did not leave, so that it has no part in the results.
func closingFlight(airport string, at time.Time) Flight {
	return Flight{Year: at.Year(), Month: int(at.Month()), Day: at.Day(), Scheduled: ClockTime{at.Hour(), at.Minute()},
		Origin: airport, Hour: someHour}
}

// closingWeather is of an airport without flights.
func closingWeather(airport string, at time.Time) Weather {
	return Weather{Year: at.Year(), Month: int(at.Month()), Day: at.Day(), OfDay: at.Hour(), Origin: airport,
		Hour: HourUTC(at.Format(time.RFC3339))}
}

// reached is a hook that knows how far event time has come in each task of the pipeline.
type reached struct {
	lock     sync.Mutex
	pipeline string
	end      time.Time
	there    map[string]bool // tasks whose event time is at the end
}

func newReached(pipeline string) *reached {
	return &reached{pipeline: pipeline, there: map[string]bool{}}
}

// await sets the time that everywhere asks for.
func (r *reached) await(end time.Time) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.end = end
}

// OnCommit hears of each commit.
func (r *reached) OnCommit(commit framework.CommitInfo) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if strings.HasPrefix(commit.Task, r.pipeline+"/") && !r.end.IsZero() && !commit.Watermark.Before(r.end) {
		r.there[commit.Task] = true
	}
}

func (r *reached) everywhere(tasks int) bool {
	r.lock.Lock()
	defer r.lock.Unlock()
	return len(r.there) >= tasks
}

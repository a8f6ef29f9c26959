package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/inbox"
	"github.com/millrace/millrace/microstore"
)

// measureInbox handles messages of which nothing is done, all of them new, and then some again, which must not be.
func (b *bench) measureInbox(form string) (took result, err error) {
	handled := 0
	var handle func(context.Context, []framework.Record) (inbox.Result, error)
	nothing := func(_ context.Context, _ *sql.Tx, records []framework.Record) error {
		handled += len(records)
		return nil
	}
	switch {
	case strings.HasPrefix(form, "ids in the microstore"):
		dir, err := os.MkdirTemp("", "millrace-bench")
		if err != nil {
			return result{}, err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		store, err := microstore.Open(microstore.Config{Dir: dir})
		if err != nil {
			return result{}, err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		box, err := inbox.InStore(store, "bench", inbox.Config{})
		if err != nil {
			return result{}, err
		}
		handle = box.BatchHandler(func(_ context.Context, _ *microstore.Batch, records []framework.Record) error {
			handled += len(records)
			return nil
		}).HandleBatch
	case strings.HasPrefix(form, "ids"):
		box, err := inbox.New(inbox.Postgres, "bench", inbox.Config{Name: b.name})
		if err == nil {
			err = box.Create(b.ctx, b.db)
		}
		if err != nil {
			return result{}, err
		}
		handle = box.BatchHandler(b.db, nothing).HandleBatch
	default:
		marks, err := inbox.NewMarks(inbox.Postgres, "bench", "orders", inbox.MarksConfig{Name: b.name})
		if err == nil {
			err = marks.Create(b.ctx, b.db)
		}
		if err != nil {
			return result{}, err
		}
		handle = marks.BatchHandler(b.db, nothing).HandleBatch
	}
	size := 500
	if strings.HasSuffix(form, "one by one") {
		size = 1
	}
	deliver := func(n int) error {
		for from := 0; from < n; from += size {
			records := make([]framework.Record, min(size, n-from))
			for j := range records {
				i := from + j
				records[j] = framework.Record{ID: eventID(i), Key: eventKey(i), Value: payload,
					Metadata: map[string]string{inbox.MetadataSequence: fmt.Sprintf("%019d", i)}}
			}
			result, err := handle(b.ctx, records)
			if err == nil && len(result.Failed) > 0 {
				err = result.Failed[0].Err
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	b.meter.start()
	if err := deliver(b.rows); err != nil {
		return result{}, err
	}
	b.meter.stop()
	if err := deliver(min(b.rows, 1000)); err != nil {
		return result{}, err
	}
	if handled != b.rows {
		return result{}, fmt.Errorf("%d of %d messages were handled", handled, b.rows)
	}
	return result{Rows: b.rows, Wall: b.meter.ended.Sub(b.meter.began), Own: b.meter.own, Database: b.meter.database}, nil
}

package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/transport/address"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/memory"
	"github.com/millrace/millrace/transport/sqlite"
)

// The relay sends to any transport, here to those with partitions that need no service; kafka_test.go has Kafka.
func TestTransports(t *testing.T) {
	const partitions, keys, each = 4, 10, 20
	schemes := address.Schemes{"memory": memory.OpenAddress, "embedded": embedded.OpenAddress, "sqlite": sqlite.OpenAddress}
	for name, rest := range map[string]string{"memory": "", "embedded": "", "sqlite": filepath.Join(t.TempDir(), "topics.db")} {
		t.Run(name, func(t *testing.T) {
			store, err := microstore.Open(microstore.Config{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			transport, closeTransport, err := schemes.Open(t.Context(), name+":"+rest, address.Config{Store: store})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := errors.Join(closeTransport(), store.Close()); err != nil {
					t.Error(err)
				}
			})
			topics := transport.(interface {
				framework.TopicReader
				CreateTopic(ctx context.Context, name string, partitions int) error
			})
			if err := topics.CreateTopic(t.Context(), "events", partitions); err != nil {
				t.Fatal(err)
			}
			publisher, err := transport.Publisher(framework.PublisherConfig{})
			if err != nil {
				t.Fatal(err)
			}
			d := database{sqltest.SQLite(t)}
			table, o := d.table(t, outbox.Config{}), newOracle()
			_, stop := start(t, d, table, publisher, quick())
			for n := range each {
				var records []framework.Record
				for key := range keys {
					r := event(fmt.Sprint("key", key), n)
					r.Type, r.Metadata = "placed", map[string]string{"trace": r.ID}
					records = append(records, r)
				}
				d.write(t, table, "events", records...)
				o.commit(records...)
			}
			eventually(t, "all is sent", func() bool { return d.count(t) == 0 })
			stop()
			if err := publisher.Close(); err != nil {
				t.Fatal(err)
			}
			s := newSink()
			for partition := range partitions {
				if _, err := topics.Read(t.Context(), "events", partition, 0, func(r framework.Record) error {
					if r.Type != "placed" || r.Metadata["trace"] != r.ID || r.ID != fmt.Sprintf("%s/%s", r.Key, r.Value) || r.Metadata[outbox.MetadataSequence] == "" {
						t.Errorf("there is %+v", r)
					}
					s.all = append(s.all, r)
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			}
			if n := o.check(t, s); n > 0 {
				t.Errorf("%d duplicates", n)
			}
		})
	}
}

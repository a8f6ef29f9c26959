package address_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/address"
	"github.com/millrace/millrace/transport/amqp"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/file"
	"github.com/millrace/millrace/transport/kafka"
	"github.com/millrace/millrace/transport/memory"
	"github.com/millrace/millrace/transport/nats"
	"github.com/millrace/millrace/transport/redis"
	"github.com/millrace/millrace/transport/sql"
	"github.com/millrace/millrace/transport/sqlite"
)

func schemes() address.Schemes {
	return address.Schemes{
		"memory": memory.OpenAddress, "embedded": embedded.OpenAddress, "file": file.OpenAddress, "sqlite": sqlite.OpenAddress,
		"kafka": kafka.OpenAddress, "nats": nats.OpenAddress, "redis": redis.OpenAddress, "amqp": amqp.OpenAddress,
		"postgres": sql.OpenAddress, "mysql": sql.OpenAddress,
	}
}

// What an address says wrong is an error that names it, and never shows the password.
func TestAddressesThatCannotBeUsed(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "an address begins with one of amqp:, embedded:, file:",
		"memory":                 "there is no transport for it",
		"pigeon://me:secret@x/y": "pigeon://me:…@x/y",
		"memory:x":               "memory: the address is",
		"embedded:dir":           "embedded: the address is",
		"embedded:":              "the store is nil",
		"file:":                  "file:DIR",
		"sqlite:":                "sqlite:topics.db",
		"kafka://me:secret@x?compression=none&nope=1": `there is no setting "nope"`,
		"nats://me:secret@x?ack_wait=1":               `nats: address: setting ack_wait is "1": it must be a duration`,
		"nats://me:secret@x?bogus=1":                  `nats: address: there is no setting "bogus"; those there are: ack_wait, group`,
		"amqp://me:secret@x/?heartbeat=5&bogus=1":     `amqp: address: there is no setting "bogus"; those there are: auth_mechanism,`,
		"nats://me:secret@x?group=a&group=b":          "setting group is empty, or there more than once",
		"redis://me:secret@x/0?max_idle=-1s":          `redis: address: setting max_idle is "-1s"`,
		"redis://me:secret@x/zero":                    "redis: address: it must be like",
		"amqp://me:secret@x/?group=":                  "amqp: address: setting group is empty",
		"postgres://me:secret@x/y?poll=%zz":           "sql: address: setting poll",
		"postgres://me:secret@x:port/y":               "sql: address: the driver pgx cannot read it",
		"mysql://me:secret@x":                         "mysql://user:password@host:3306/database",
		"mysql://me:secret%zz@x/y":                    "percent-encoded",
	} {
		transport, closing, err := schemes().Open(t.Context(), text, address.Config{})
		if err == nil || !strings.Contains(err.Error(), want) || transport != nil {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the password: %v", text, err)
		}
		if err := closing(); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := schemes().Open(t.Context(), "x:", address.Config{}); !errors.Is(err, address.ErrUnknown) {
		t.Errorf("an unknown scheme: %v", err)
	}
}

// A server that is not there is named, without its password.
func TestNoServer(t *testing.T) {
	const host = "127.0.0.1:1" // a port that the system hands to nobody
	for _, text := range []string{
		"kafka://%s?wait=10ms", "nats://me:secret@%s", "amqp://me:secret@%s/", "postgres://me:secret@%s/y", "mysql://me:secret@%s/y",
	} {
		text = fmt.Sprintf(text, host)
		transport, closing, err := schemes().Open(t.Context(), text, address.Config{})
		if err == nil {
			err = transport.(framework.TopicCreator).CreateTopic(t.Context(), "orders", 0)
		}
		if err == nil || !strings.Contains(err.Error(), host) || strings.Contains(err.Error(), "secret") ||
			!strings.Contains(err.Error(), "check the address") {
			t.Errorf("%s: %v", text, err)
		}
		if err := closing(); err != nil {
			t.Error(err)
		}
	}
}

func TestPartitions(t *testing.T) {
	store, err := microstore.Open(microstore.Config{Dir: t.TempDir(), GCInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, text := range []string{"memory:", "embedded:", "sqlite:" + t.TempDir() + "/topics.db"} {
		transport, closing, err := schemes().Open(t.Context(), text, address.Config{Store: store, Partitions: 3})
		if err != nil {
			t.Fatal(err)
		}
		if err := transport.(framework.TopicCreator).CreateTopic(t.Context(), "events", 0); err != nil {
			t.Error(err)
		}
		if info, err := transport.Topic(t.Context(), "events"); err != nil || info.Partitions != 3 {
			t.Errorf("%s: %+v, %v", text, info, err)
		}
		if err := closing(); err != nil {
			t.Error(err)
		}
	}
}

// closed is a transport that counts the calls of Close.
type closed struct {
	framework.Transport
	calls int
}

func (c *closed) Close() error { c.calls++; return nil }

func TestOwnScheme(t *testing.T) {
	var own closed
	var got string
	s := address.Schemes{"own": func(_ context.Context, text string, config address.Config) (framework.Transport, error) {
		got = text
		return &own, nil
	}}
	transport, closing, err := s.Open(t.Context(), "own:thing?a=1", address.Config{})
	if err != nil || transport != framework.Transport(&own) || got != "own:thing?a=1" {
		t.Errorf("%v, %v, %s", transport, err, got)
	}
	if err := closing(); err != nil || own.calls != 1 {
		t.Errorf("closed %d times, %v", own.calls, err)
	}
}

func TestTake(t *testing.T) {
	rest, group, err := address.Take("x://h/p?a=1&group=a%20b&c=2", "group")
	if rest != "x://h/p?a=1&c=2" || group != "a b" || err != nil {
		t.Errorf("%s, %q, %v", rest, group, err)
	}
	rest, wait, err := address.TakeDuration("x://h/p?wait=2s", "wait", time.Second)
	if rest != "x://h/p" || wait != 2*time.Second || err != nil {
		t.Errorf("%s, %v, %v", rest, wait, err)
	}
	if rest, wait, err := address.TakeDuration("x://h/p?waits=2s", "wait", time.Second); rest != "x://h/p?waits=2s" || wait != time.Second || err != nil {
		t.Errorf("%s, %v, %v", rest, wait, err)
	}
}

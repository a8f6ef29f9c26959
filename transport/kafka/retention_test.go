package kafka_test

import (
	"context"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

func TestRetention(t *testing.T) { retention(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "") }

func TestRetentionOnBroker(t *testing.T) { retention(t, broker(t), own(t)) }

// What a topic keeps is told by its settings.
func retention(t *testing.T, config kafka.Config, prefix string) {
	transport, admin := open(t, config), adminOf(t, config.Brokers...)
	for name, c := range map[string]struct {
		settings map[string]string
		want     framework.Retention
	}{
		"by-default":    {want: framework.Retention{Age: 7 * 24 * time.Hour}},
		"an-hour":       {map[string]string{"retention.ms": "3600000"}, framework.Retention{Age: time.Hour}},
		"for-ever":      {map[string]string{"retention.ms": "-1"}, framework.Retention{}},
		"for-very-long": {map[string]string{"retention.ms": "9223372036854775807"}, framework.Retention{Age: 9223372036854 * time.Millisecond}},
		"compacted":     {map[string]string{"cleanup.policy": "compact"}, framework.Retention{Compacted: true}},
		"both": {map[string]string{"cleanup.policy": "compact,delete", "retention.ms": "3600000"},
			framework.Retention{Compacted: true, Age: time.Hour}},
	} {
		settings := map[string]*string{}
		for k, v := range c.settings {
			settings[k] = &v
		}
		_, err := admin.CreateTopic(t.Context(), 1, 1, settings, prefix+name)
		must(t, err)
		kept, err := transport.Retention(t.Context(), prefix+name)
		for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			kept, err = transport.Retention(t.Context(), prefix+name) // the broker may not know yet what it has made
		}
		if err != nil || kept != c.want {
			t.Errorf("%s: it keeps %+v, want %+v: %v", name, kept, c.want, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // all of which it takes
	defer cancel()
	if _, err := transport.Retention(ctx, prefix+"not-there"); err == nil {
		t.Error("a topic that there is not keeps something")
	}
}

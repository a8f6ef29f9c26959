package kafka_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/transport/kafka"
)

func TestParse(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for address, check := range map[string]func(kafka.Config) bool{
		"kafka://one:9092,two,[::1]:9093": func(c kafka.Config) bool {
			return strings.Join(c.WithDefaults().Brokers, " ") == "one:9092 two:9092 [::1]:9093" && c.TLS == nil && c.SASL.Mechanism == ""
		},
		"kafka://u:p%40%3A%2F@one/": func(c kafka.Config) bool {
			return c.SASL.User == "u" && c.SASL.Password == "p@:/" && c.WithDefaults().SASL.Mechanism == "PLAIN"
		},
		"kafka://u:p@one?sasl=scram-sha-512&tls=true": func(c kafka.Config) bool {
			return c.SASL.Mechanism == "SCRAM-SHA-512" && c.TLS != nil && !c.TLS.InsecureSkipVerify
		},
		"kafka://one?sasl=oauthbearer&tls_server_name=x&token_file=" + token: func(c kafka.Config) bool {
			got, err := c.SASL.Token(t.Context())
			return err == nil && got == "secret" && c.TLS != nil && c.TLS.ServerName == "x"
		},
		"kafka://one?group=g&client_id=c&rack=r&compression=zstd&partitions=7&replicas=3&auto_create=true&skip_gone=1" +
			"&read_uncommitted=true&batch_bytes=2000000&read_bytes=100000&write_bytes=4000000&wait=2s&linger=5ms&delivery_timeout=9s" +
			"&session_timeout=11s&rebalance_timeout=12s&commit_interval=13s&instance_id=i": func(c kafka.Config) bool {
			return c.Group == "g" && c.ClientID == "c" && c.Rack == "r" && c.Compression == "zstd" && c.Partitions == 7 &&
				c.Replicas == 3 && c.AutoCreate && c.SkipGone && c.ReadUncommitted && c.BatchBytes == 2_000_000 &&
				c.ReadBytes == 100_000 && c.WriteBytes == 4_000_000 && c.Wait == 2*time.Second && c.Linger == 5*time.Millisecond &&
				c.DeliveryTimeout == 9*time.Second && c.SessionTimeout == 11*time.Second && c.RebalanceTimeout == 12*time.Second &&
				c.CommitInterval == 13*time.Second && c.InstanceID == "i"
		},
	} {
		c, err := kafka.Parse(address)
		if err != nil || !check(c) {
			t.Errorf("%s: %v, %+v", address, err, c)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		address string
		want    []string
	}{
		{"localhost:9092", []string{"must begin with kafka://", "as in kafka://host:9092"}},
		{"kafka://", []string{"no broker", "as in kafka://host:9092"}},
		{"kafka://one:port", []string{"Brokers[0]", `"port"`, "1 to 65535", "localhost:9092"}},
		{"kafka://one:0", []string{"1 to 65535"}},
		{"kafka://::1", []string{"brackets", "[::1]:9092"}},
		{"kafka://one,,two", []string{"Brokers[1]", "localhost:9092"}},
		{"kafka://one/orders", []string{"/orders", "behind the brokers", "as in kafka://host:9092"}},
		{"kafka://u:100%@one", []string{"percent-encoded"}},
		{"kafka://:pw@one", []string{"the user is empty"}},
		{"kafka://one?tsl=true", []string{`no setting "tsl"`, "tls_ca"}},
		{"kafka://one?tls=ja&partitions=many&wait=5", []string{`tls is "ja"`, `partitions is "many"`, `wait is "5"`}},
		{"kafka://one?wait=1s&wait=2s", []string{"wait is given 2 times"}},
		{"kafka://one?a=%zz", []string{"percent-encoded"}},
		{"kafka://one?tls_ca=/no/such/file", []string{"tls_ca", "/no/such/file"}},
		{"kafka://one?tls_cert=x", []string{"tls_cert and tls_key"}},
		{"kafka://one?tls=false&tls_insecure=true", []string{"tls is false"}},
		{"kafka://u:hunter2@one?sasl=gssapi", []string{`"GSSAPI"`, "SCRAM-SHA-512"}},
		{"kafka://one?sasl=plain", []string{"SASL.User is empty"}},
		{"kafka://one?sasl=oauthbearer", []string{"SASL.Token is nil"}},
		{"kafka://one?compression=brotli&batch_bytes=1&read_bytes=10&delivery_timeout=1ms", []string{
			`Compression is "brotli"`, "BatchBytes is 1", "ReadBytes is 10", "DeliveryTimeout is 1ms"}},
		{"kafka://one?partitions=-1&replicas=-2&write_bytes=10", []string{"Partitions is -1", "Replicas is -2", "WriteBytes is 10"}},
	} {
		_, err := kafka.Parse(test.address)
		if err == nil {
			t.Errorf("%s: no error", test.address)
			continue
		}
		for _, want := range append(test.want, "kafka: address: ") {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v: expected %q", test.address, err, want)
			}
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the password: %v", test.address, err)
		}
	}
}

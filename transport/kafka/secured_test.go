package kafka_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/kafka"
)

// authority signs certificates.
type authority struct {
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	files := a.issue(t, "authority")
	a.file = files.cert
	return a
}

// identity are the files of a certificate and its key, and of both.
type identity struct{ cert, key, both string }

// issue makes a certificate for 127.0.0.1; the first is the authority's own.
func (a *authority) issue(t *testing.T, name string) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	first := a.cert == nil
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IsCA: first, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if first {
		template.KeyUsage |= x509.KeyUsageCertSign
		a.cert, a.key = template, key
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	must(t, err)
	if first {
		a.cert, err = x509.ParseCertificate(signed)
		must(t, err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	files := identity{filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "both")}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	must(t, os.WriteFile(files.cert, cert, 0o600))
	must(t, os.WriteFile(files.key, text, 0o600))
	must(t, os.WriteFile(files.both, append(text, cert...), 0o600))
	return files
}

// securedBroker starts a broker that ann may do everything with, and bob what he is allowed. Its listener LOGIN takes all
// mechanisms, SECURE encrypts and takes PLAIN, and MUTUAL wants a certificate of the authority. Whoever comes by the plain
// one is ANONYMOUS and may do everything.
func securedBroker(t *testing.T, ours *authority) *services.Broker {
	t.Helper()
	read := func(file string) []byte {
		content, err := os.ReadFile(file)
		must(t, err)
		return content
	}
	const security = "org.apache.kafka.common.security."
	users := security + `plain.PlainLoginModule required user_ann="secret" user_bob="secret";`
	broker := services.OwnKafka(t, services.BrokerConfig{
		Listeners: map[string]string{"LOGIN": "SASL_PLAINTEXT", "SECURE": "SASL_SSL", "MUTUAL": "SSL"},
		Files:     map[string][]byte{"/tmp/broker.pem": read(ours.issue(t, "broker").both), "/tmp/authority.pem": read(ours.file)},
		Env: map[string]string{
			"KAFKA_LISTENER_NAME_LOGIN_SASL_ENABLED_MECHANISMS":            "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
			"KAFKA_LISTENER_NAME_LOGIN_PLAIN_SASL_JAAS_CONFIG":             users,
			"KAFKA_LISTENER_NAME_LOGIN_SCRAM___SHA___256_SASL_JAAS_CONFIG": security + "scram.ScramLoginModule required;",
			"KAFKA_LISTENER_NAME_LOGIN_SCRAM___SHA___512_SASL_JAAS_CONFIG": security + "scram.ScramLoginModule required;",
			"KAFKA_LISTENER_NAME_LOGIN_OAUTHBEARER_SASL_JAAS_CONFIG":       security + `oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";`,
			"KAFKA_LISTENER_NAME_SECURE_SASL_ENABLED_MECHANISMS":           "PLAIN",
			"KAFKA_LISTENER_NAME_SECURE_PLAIN_SASL_JAAS_CONFIG":            users,
			"KAFKA_LISTENER_NAME_MUTUAL_SSL_CLIENT_AUTH":                   "required",
			"KAFKA_SSL_KEYSTORE_TYPE":                                      "PEM",
			"KAFKA_SSL_KEYSTORE_LOCATION":                                  "/tmp/broker.pem",
			"KAFKA_SSL_TRUSTSTORE_TYPE":                                    "PEM",
			"KAFKA_SSL_TRUSTSTORE_LOCATION":                                "/tmp/authority.pem",
			"KAFKA_AUTHORIZER_CLASS_NAME":                                  "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			"KAFKA_SUPER_USERS":                                            "User:ANONYMOUS;User:ann;User:CN=ann",
		},
	})
	admin := adminOf(t, broker.Address)
	for _, mechanism := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} { // one of a user in a request
		altered, err := admin.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{
			{User: "ann", Mechanism: mechanism, Iterations: 4096, Password: "secret"},
		})
		must(t, err)
		must(t, altered.Error())
	}
	return broker
}

func adminOf(t *testing.T, brokers ...string) *kadm.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	must(t, err)
	t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// token is one without a signature, of a user and valid until a time.
func token(t *testing.T, user string, until time.Time) (file string) {
	t.Helper()
	part := base64.RawURLEncoding.EncodeToString
	claims := fmt.Sprintf(`{"sub":%q,"iat":%d,"exp":%d}`, user, until.Add(-2*time.Hour).Unix(), until.Unix())
	file = filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte(part([]byte(`{"alg":"none"}`))+"."+part([]byte(claims))+".\n"), 0o600))
	return file
}

// On one broker, since it takes a while to start.
func TestSecuredBroker(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t)
	broker := securedBroker(t, ours)
	t.Run("rights", func(t *testing.T) { rights(t, broker) })
	t.Run("paused", func(t *testing.T) { pausedSink(t, broker) })
	t.Run("doors", func(t *testing.T) { doors(t, broker, ours) }) // last, since its cases wait for their turn
}

// doors tries every way in, with what opens it and what does not.
func doors(t *testing.T, broker *services.Broker, ours *authority) {
	login, secure, mutual := broker.Listeners["LOGIN"], broker.Listeners["SECURE"], broker.Listeners["MUTUAL"]
	theirs := newAuthority(t)
	ann, stranger := ours.issue(t, "ann"), theirs.issue(t, "ann")
	now := time.Now()
	trust := "&tls_ca=" + ours.file
	for i, test := range []struct {
		name, address string
		want          string // in the error; empty: it opens
	}{
		{"PLAIN", "ann:secret@" + login + "?sasl=plain", ""},
		{"PLAIN, wrong password", "ann:wrong@" + login + "?sasl=plain", "does not let this program in"},
		{"PLAIN, unknown user", "eve:secret@" + login + "?sasl=plain", "does not let this program in"},
		{"SCRAM-SHA-256", "ann:secret@" + login + "?sasl=scram-sha-256", ""},
		{"SCRAM-SHA-256, wrong password", "ann:wrong@" + login + "?sasl=scram-sha-256", "does not let this program in"},
		{"SCRAM-SHA-256, unknown user", "eve:secret@" + login + "?sasl=scram-sha-256", "does not let this program in"},
		{"SCRAM-SHA-512", "ann:secret@" + login + "?sasl=scram-sha-512", ""},
		{"SCRAM-SHA-512, wrong password", "ann:wrong@" + login + "?sasl=scram-sha-512", "does not let this program in"},
		{"SCRAM-SHA-512, unknown user", "eve:secret@" + login + "?sasl=scram-sha-512", "does not let this program in"},
		{"OAUTHBEARER", login + "?sasl=oauthbearer&token_file=" + token(t, "ann", now.Add(time.Hour)), ""},
		{"OAUTHBEARER, run out", login + "?sasl=oauthbearer&token_file=" + token(t, "ann", now.Add(-time.Hour)), "does not let this program in"},
		{"OAUTHBEARER, no token that can be read", login + "?sasl=oauthbearer&wait=4s&token_file=/nothing/here", "/nothing/here"},
		{"nobody where a login is wanted", login + "?wait=4s", "SASL"},
		{"TLS", "ann:secret@" + secure + "?sasl=plain" + trust, ""},
		{"TLS, wrong password", "ann:wrong@" + secure + "?sasl=plain" + trust, "does not let this program in"},
		{"TLS, a mechanism that it does not take", "ann:secret@" + secure + "?sasl=scram-sha-512" + trust, "SASL"},
		{"TLS, another authority", "ann:secret@" + secure + "?wait=4s&tls_ca=" + theirs.file, "certificate"},
		{"TLS, another name", "ann:secret@" + secure + "?wait=4s&tls_server_name=example.org" + trust, "example.org"},
		{"no TLS where it is wanted", "ann:secret@" + secure + "?wait=4s", "TLS"},
		{"TLS where there is none", "ann:secret@" + login + "?wait=4s" + trust, "TLS"},
		{"mTLS", mutual + "?tls_cert=" + ann.cert + "&tls_key=" + ann.key + trust, ""},
		{"mTLS, no certificate", mutual + "?wait=4s" + trust, "certificate"},
		{"mTLS, another authority's", mutual + "?wait=4s&tls_cert=" + stranger.cert + "&tls_key=" + stranger.key + trust, "certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // many take all of the time that they may
			config, err := kafka.Parse("kafka://" + test.address)
			must(t, err)
			began := time.Now()
			transport, err := newWithin(t, config, test.want == "")
			if test.want == "" {
				must(t, err)
				defer transport.Close()
				topic := fmt.Sprintf("door-%d", i)
				must(t, transport.CreateTopic(t.Context(), topic, 1))
				publisher, err := transport.Publisher(frameworkPublisher)
				must(t, err)
				must(t, publisher.Publish(t.Context(), topic, numbered(0, 3)))
				got, _ := take(t, readTopic(t, transport, topic), 3)
				checkNumbered(t, got, 0, 3)
				return
			}
			if err == nil {
				t.Fatal("it opens")
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v: expected %q", err, test.want)
			}
			t.Log(err)
			if took := time.Since(began); took > 60*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// newWithin opens a transport; the right ones are tried for a while, as a broker learns passwords a little later.
func newWithin(t *testing.T, config kafka.Config, right bool) (*kafka.Transport, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), memberPatience)
	defer cancel()
	for {
		transport, err := kafka.New(ctx, config)
		if err == nil || !right || ctx.Err() != nil {
			return transport, err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

package kafka_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/transport/kafka"
)

// certificate makes one that signs itself, for 127.0.0.1, and returns the files of it and its key.
func certificate(t *testing.T, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	private, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600))
	return certFile, keyFile
}

// Certificates of broker and client are checked, from the files that an address names.
func TestTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t, "broker")
	clientCert, clientKey := certificate(t, "client")
	pair, err := tls.LoadX509KeyPair(cert, key)
	must(t, err)
	clients := x509.NewCertPool()
	text, err := os.ReadFile(clientCert)
	must(t, err)
	clients.AppendCertsFromPEM(text)
	cluster := fake(t, kfake.TLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, MinVersion: tls.VersionTLS12,
	}))
	address := "kafka://" + cluster.ListenAddrs()[0] + "?wait=5s"
	mine := "&tls_cert=" + clientCert + "&tls_key=" + clientKey

	config, err := kafka.Parse(address + mine + "&tls_ca=" + cert)
	must(t, err)
	transport := open(t, config)
	must(t, transport.CreateTopic(t.Context(), "events", 1))
	publish(t, transport, numbered(0, 5)...)
	_, messages := subscribe(t, transport, -1)
	got, _ := take(t, messages, 5)
	checkNumbered(t, got, 0, 5)

	for name, test := range map[string]struct{ settings, want string }{
		"no TLS":                          {"", "TLS"},
		"an authority that is not known":  {mine + "&tls=true", "certificate"},
		"a wrong authority":               {mine + "&tls_ca=" + clientCert, "certificate"},
		"another name":                    {mine + "&tls_server_name=example.org&tls_ca=" + cert, "example.org"},
		"no certificate":                  {"&tls_ca=" + cert, "certificate"},
		"a certificate that is not known": {"&tls_ca=" + cert + "&tls_cert=" + cert + "&tls_key=" + key, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each takes all of the time that it may
			config, err := kafka.Parse(address + test.settings)
			must(t, err)
			if _, err := kafka.New(t.Context(), config); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v: expected %q", err, test.want)
			}
		})
	}
	if _, err := kafka.Parse(address + "&tls_ca=" + key); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("a key for an authority: %v", err)
	}
}

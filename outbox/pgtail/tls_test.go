package pgtail_test

import (
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/sqldb"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/outbox/pgtail"
)

// A server that takes encrypted connections only is read from over one, and its certificate is checked.
func TestTLS(t *testing.T) {
	server := services.OwnPostgres(t)
	root := certify(t, server)
	secure := strings.Replace(server.Address, "sslmode=disable", "sslmode=verify-full&sslrootcert="+root, 1)
	connects := func(address string) error {
		db, err := sql.Open("pgx", address)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		return db.Ping()
	}
	eventually(t, "the server takes encrypted connections only", func() bool {
		return connects(secure) == nil && connects(server.Address) != nil
	})
	d := open(t, sqltest.Open(t, sqldb.Postgres, "pgx", secure))
	o, s := newOracle(), newSink()
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	for n := range 20 {
		d.write(t, event("k", n))
		o.commit(event("k", n))
	}
	s.waitFor(t, o.size)
	d.reader(t)
	var encrypted bool
	if err := d.QueryRow(`SELECT ssl FROM pg_stat_ssl JOIN pg_replication_slots ON active_pid = pid WHERE slot_name = $1`, d.slot()).Scan(&encrypted); err != nil {
		t.Fatal(err)
	} else if !encrypted {
		t.Error("the log is not encrypted")
	}
	stop()
	o.check(t, s.snapshot())
	for name, test := range map[string]struct{ address, says string }{
		"no TLS":                         {server.Address, "no encryption"},
		"an authority that is not known": {strings.Replace(server.Address, "disable", "verify-full", 1), "certificate"},
		"another name":                   {strings.Replace(secure, "127.0.0.1", "localhost", 1), "certificate is valid for"},
	} {
		t.Run(name, func(t *testing.T) {
			log, err := pgtail.New(d.table, test.address, pgtail.Config{})
			if err != nil {
				t.Fatal(err)
			}
			config := d.quick()
			config.Log = log
			relay, err := outbox.NewRelay(d.table, d.DB, s, config)
			if err != nil {
				t.Fatal(err)
			}
			if err := relay.Run(t.Context()); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Run has ended with: %v", err)
			}
		})
	}
}

// certify gives a server a certificate for 127.0.0.1, and returns the file of its authority, which is itself. From soon on
// the server takes no connections over TCP without TLS.
func certify(t *testing.T, server *services.PostgresServer) (root string) {
	t.Helper()
	authority := httptest.NewTLSServer(nil) // for what it presents
	pair := authority.TLS.Certificates[0]
	authority.Close()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	server.WriteFile(t, "server.crt", certificate)
	server.WriteFile(t, "server.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	server.WriteFile(t, "pg_hba.conf", []byte("hostssl all all 127.0.0.1/32 trust\n"))
	root = filepath.Join(t.TempDir(), "root.crt")
	if err := os.WriteFile(root, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", server.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range []string{"ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

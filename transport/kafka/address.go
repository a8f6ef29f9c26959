package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/address"
)

// Parse reads a Config from an address:
//
//	kafka://user:password@host:9092,host2:9092?sasl=scram-sha-512&tls=true&…
//
// User and password are percent-encoded where they hold one of "@:/?#%". The settings behind the question mark:
//
//	sasl             plain, scram-sha-256, scram-sha-512 or oauthbearer
//	token_file       file with the token for oauthbearer, read at each authentication
//	tls              true: encrypt, and check the broker's certificate against the system's authorities
//	tls_ca           file with the authorities to check against instead; it and those below imply tls=true
//	tls_cert,tls_key files with the certificate of this program and its key
//	tls_server_name  name that the broker's certificate must have, when it is not the host
//	tls_insecure     true: do not check the broker's certificate
//	group            g: pipelines are in the consumer groups g.PIPELINE
//	client_id, rack, instance_id, compression
//	partitions, replicas, batch_bytes, write_bytes, read_bytes
//	auto_create, read_uncommitted, skip_gone
//	wait, linger, delivery_timeout, session_timeout, rebalance_timeout, commit_interval
//
// which are the fields of Config of the same names. An error names every setting that cannot be used, and never
// shows the password.
func Parse(address string) (Config, error) {
	c, err := parse(address)
	if err != nil {
		return Config{}, fmt.Errorf("kafka: address: %w", err)
	}
	return c, nil
}

// asIn shows an address that is right.
const asIn = ", as in kafka://host:9092 or kafka://user:password@host:9092,host2:9092?sasl=plain&tls=true"

func parse(address string) (Config, error) {
	rest, ok := strings.CutPrefix(address, "kafka://")
	if !ok {
		return Config{}, fmt.Errorf("it must begin with kafka://%s", asIn)
	}
	rest, query, _ := strings.Cut(rest, "?")
	var c Config
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		user, password, _ := strings.Cut(rest[:at], ":")
		var errs [2]error
		c.SASL.User, errs[0] = url.PathUnescape(user)
		c.SASL.Password, errs[1] = url.PathUnescape(password)
		if errs[0] != nil || errs[1] != nil || c.SASL.User == "" {
			return Config{}, errors.New("user or password are not percent-encoded (% as %25, @ as %40), or the user is empty" + asIn)
		}
		rest = rest[at+1:]
	}
	hosts, path, _ := strings.Cut(rest, "/")
	if path != "" {
		return Config{}, fmt.Errorf("%q behind the brokers: topics are named by pipelines, settings follow a question mark%s", "/"+path, asIn)
	}
	if hosts == "" {
		return Config{}, fmt.Errorf("it names no broker%s", asIn)
	}
	c.Brokers = strings.Split(hosts, ",")
	values, err := url.ParseQuery(query)
	if err != nil {
		return Config{}, errors.New("the settings cannot be read: they must be name=value, joined by &, percent-encoded" + asIn)
	}
	if err := c.set(values); err != nil {
		return Config{}, err
	}
	return c, c.Validate()
}

// set takes settings by name.
func (c *Config) set(values url.Values) error {
	s := settings{values: values}
	c.SASL.Mechanism = strings.ToUpper(s.text("sasl"))
	if name := s.text("token_file"); name != "" {
		c.SASL.Token = TokenFile(name)
	}
	c.TLS = s.tls()
	c.Group, c.ClientID, c.Rack = s.text("group"), s.text("client_id"), s.text("rack")
	c.InstanceID, c.Compression = s.text("instance_id"), s.text("compression")
	c.Partitions, c.Replicas = s.number("partitions"), s.number("replicas")
	c.BatchBytes, c.WriteBytes, c.ReadBytes = s.number("batch_bytes"), s.number("write_bytes"), s.number("read_bytes")
	c.AutoCreate, c.ReadUncommitted, c.SkipGone = s.flag("auto_create"), s.flag("read_uncommitted"), s.flag("skip_gone")
	c.Wait, c.Linger, c.DeliveryTimeout = s.duration("wait"), s.duration("linger"), s.duration("delivery_timeout")
	c.SessionTimeout, c.RebalanceTimeout = s.duration("session_timeout"), s.duration("rebalance_timeout")
	c.CommitInterval = s.duration("commit_interval")
	for name := range values {
		if !slices.Contains(s.known, name) {
			slices.Sort(s.known)
			s.fault("there is no setting %q; those there are: %s", name, strings.Join(s.known, ", "))
		}
	}
	return errors.Join(s.faults...)
}

// settings reads values by name and notes what is wrong and which names there are.
type settings struct {
	values url.Values
	known  []string
	faults []error
}

func (s *settings) fault(format string, args ...any) {
	s.faults = append(s.faults, fmt.Errorf(format, args...))
}

func (s *settings) text(name string) string {
	s.known = append(s.known, name)
	if given := s.values[name]; len(given) > 1 {
		s.fault("%s is given %d times", name, len(given))
	}
	return s.values.Get(name)
}

func (s *settings) number(name string) int {
	text := s.text(name)
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		s.fault("%s is %q: it must be a number", name, text)
	}
	return n
}

func (s *settings) flag(name string) bool {
	text := s.text(name)
	if text == "" {
		return false
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		s.fault("%s is %q: it must be true or false", name, text)
	}
	return b
}

func (s *settings) duration(name string) time.Duration {
	text := s.text(name)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		s.fault("%s is %q: it must be a duration such as 500ms or 30s", name, text)
	}
	return d
}

// tls reads the settings that begin with tls; nil when there are none.
func (s *settings) tls() *tls.Config {
	on := s.flag("tls")
	ca, cert, key := s.text("tls_ca"), s.text("tls_cert"), s.text("tls_key")
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: s.text("tls_server_name"), InsecureSkipVerify: s.flag("tls_insecure"),
	}
	implied := ca != "" || cert != "" || key != "" || config.ServerName != "" || config.InsecureSkipVerify
	if !on && s.values.Get("tls") != "" && implied {
		s.fault("tls is false, but other settings of TLS are given")
	}
	if !on && !implied {
		return nil
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			s.fault("tls_ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if err == nil && !config.RootCAs.AppendCertsFromPEM(pem) {
			s.fault("tls_ca: %s holds no certificate in PEM", ca)
		}
	}
	switch {
	case (cert == "") != (key == ""):
		s.fault("tls_cert and tls_key are given together or not at all")
	case cert != "":
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			s.fault("tls_cert and tls_key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// OpenAddress connects to the cluster of an address, which Parse reads: kafka://host:9092?group=g. It is an
// address.Opener.
func OpenAddress(ctx context.Context, text string, config address.Config) (framework.Transport, error) {
	c, err := Parse(text)
	if err != nil {
		return nil, err
	}
	if c.Partitions == 0 {
		c.Partitions = config.Partitions
	}
	c.Logger = config.Logger
	return New(ctx, c)
}

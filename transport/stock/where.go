package stock

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// at adds to an error where the Pub/Sub is and, where it is one that a user can mend, how. Pub/Subs say neither.
func (c *Config) at(err error) error {
	if c.Where == "" || err == nil {
		return err
	}
	return fmt.Errorf("at %s: %w%s", c.Where, err, advice(err))
}

// advice says what to do about an error; nothing where that is not known.
func advice(err error) string {
	var network *net.OpError
	var name *net.DNSError
	if errors.As(err, &network) && network.Op == "dial" || errors.As(err, &name) {
		return unreachable
	}
	text := err.Error() // what the clients have in common
	for _, known := range mendable {
		if strings.Contains(text, known.said) {
			return known.advice
		}
	}
	return ""
}

const (
	unreachable = ": no server answers there: check the address, and that the server runs"
	otherKind   = ": check the address, behind which may be a server of another kind, or one that hangs"
	login       = ": check user and password in the address, and that the server lets them in from here"
	noDatabase  = ": make the database, or name another one in the address"
	noRight     = ": give the user the right to create tables there, and to read and write them"
)

// mendable is what servers and clients say, in the order in which it is looked for.
var mendable = []struct{ said, advice string }{
	{"SQLSTATE 28", login}, {"SQLSTATE 3D000", noDatabase}, {"SQLSTATE 42501", noRight}, // PostgreSQL
	{"Error 1045", login}, {"Error 1698", login}, {"Error 1049", noDatabase}, {"Error 1044", noRight}, {"Error 1142", noRight}, // MariaDB, MySQL
	{"no servers available", unreachable}, {"Authorization Violation", login}, // NATS
	{"WRONGPASS", login}, {"NOAUTH", login}, {"DB index is out of range", ": name another database in the address"}, // Redis
	{"can't parse", otherKind}, // what is no Redis
	{"no access to this vhost", ": check the virtual host in the address: its default is /"}, {"Exception (403)", login}, // RabbitMQ
	{"i/o timeout", otherKind},
}

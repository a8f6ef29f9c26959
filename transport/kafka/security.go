package kafka

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// The SASL mechanisms.
const (
	plainText   = "PLAIN"
	scram256    = "SCRAM-SHA-256"
	scram512    = "SCRAM-SHA-512"
	oauthBearer = "OAUTHBEARER"
)

// SASL says who a program is.
type SASL struct {
	// Mechanism is PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER, in any case. Default: PLAIN with a User, else
	// no authentication. PLAIN sends the password as it is: use it with TLS only.
	Mechanism string
	// User and Password are for all mechanisms but OAUTHBEARER.
	User, Password string
	// Token is asked for a token at each OAUTHBEARER authentication: for every new connection, and before the session
	// on an old one runs out.
	Token func(context.Context) (string, error)
}

func (s SASL) validate() error {
	switch s.Mechanism {
	case "":
		return nil
	case plainText, scram256, scram512:
		if s.User == "" {
			return fmt.Errorf("SASL.User is empty: %s needs one", s.Mechanism)
		}
	case oauthBearer:
		if s.Token == nil {
			return errors.New("SASL.Token is nil: OAUTHBEARER needs it")
		}
	default:
		return fmt.Errorf("SASL.Mechanism is %q: it must be PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER", s.Mechanism)
	}
	return nil
}

// mechanism is what the client authenticates with; nil for none.
func (s SASL) mechanism() sasl.Mechanism {
	switch s.Mechanism {
	case plainText:
		return plain.Auth{User: s.User, Pass: s.Password}.AsMechanism()
	case scram256:
		return scram.Auth{User: s.User, Pass: s.Password}.AsSha256Mechanism()
	case scram512:
		return scram.Auth{User: s.User, Pass: s.Password}.AsSha512Mechanism()
	case oauthBearer:
		return tokenMechanism{oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			token, err := s.Token(ctx)
			if err != nil {
				return oauth.Auth{}, fmt.Errorf("SASL token: %w", err)
			}
			return oauth.Auth{Token: token}, nil
		})}
	}
	return nil
}

// tokenMechanism tells a token that the broker refuses from a broker that does not answer: a broker that does not take a
// token answers with its reasons, in place of nothing.
type tokenMechanism struct{ sasl.Mechanism }

func (m tokenMechanism) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	session, first, err := m.Mechanism.Authenticate(ctx, host)
	return tokenSession{session}, first, err
}

type tokenSession struct{ sasl.Session }

func (s tokenSession) Challenge(answer []byte) (bool, []byte, error) {
	if len(answer) > 0 {
		return false, nil, fmt.Errorf("SASL token: the broker answers %.200q: %w", answer, kerr.SaslAuthenticationFailed)
	}
	return s.Session.Challenge(answer)
}

// TokenFile reads a token from a file each time, so that one that is renewed in place is found.
func TokenFile(name string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		token, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(token)), nil
	}
}

package services

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// hello is what a client says first, and how the answer of a server that is ready begins. To connect is not enough: a
// container's port takes connections before the service in it does.
type hello struct {
	say  string
	hear string // "": anything
}

// until says hello until the service answers.
func (h hello) until(ctx context.Context, address string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := h.once(ctx, address)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer at %s: %w", address, err)
		case <-tick.C:
		}
	}
}

func (h hello) once(ctx context.Context, address string) error {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, h.say); err != nil {
		return err
	}
	answer := make([]byte, max(1, len(h.hear)))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if !bytes.HasPrefix(answer, []byte(h.hear)) {
		return errors.New("it is not ready")
	}
	return nil
}

// postgresHello is the start of a session; a server that takes it asks who is there.
func postgresHello(user, database string) hello {
	text := "user\x00" + user + "\x00database\x00" + database + "\x00\x00"
	start := binary.BigEndian.AppendUint32(nil, uint32(8+len(text)))
	start = binary.BigEndian.AppendUint32(start, 3<<16) // the protocol's version, 3.0
	return hello{say: string(start) + text, hear: "R"}
}

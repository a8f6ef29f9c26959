package testenv

import (
	"net"
	"sync"
	"testing"
)

// Stranger is a server that takes connections and says what it says, or nothing, whoever is there: what an address that is
// wrong may lead to. accepted tells of each connection.
func Stranger(t testing.TB, says string) (address string, accepted <-chan struct{}) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan struct{}, 1000)
	var running sync.WaitGroup
	var conns []net.Conn
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
			_, _ = conn.Write([]byte(says))
			taken <- struct{}{}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	return listener.Addr().String(), taken
}

package address_test

import (
	"context"
	"fmt"
	"log"

	"github.com/millrace/millrace/transport/address"
	"github.com/millrace/millrace/transport/kafka"
	"github.com/millrace/millrace/transport/memory"
)

// A program names the transports that it is to know; a flag chooses among them.
func ExampleSchemes_Open() {
	schemes := address.Schemes{"memory": memory.OpenAddress, "kafka": kafka.OpenAddress}
	transport, closeTransport, err := schemes.Open(context.Background(), "memory:", address.Config{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%T\n", transport)
	fmt.Println(closeTransport())
	_, _, err = schemes.Open(context.Background(), "nats://localhost", address.Config{})
	fmt.Println(err)
	// Output:
	// *memory.Transport
	// <nil>
	// address: "nats://localhost": there is no transport for it; an address begins with one of kafka:, memory:
}

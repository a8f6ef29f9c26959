// Package address opens the transport that an address names, so that a program moves its topics by a flag:
//
//	schemes := address.Schemes{
//		"embedded": embedded.OpenAddress, // embedded:
//		"kafka":    kafka.OpenAddress,    // kafka://host:9092
//		"nats":     nats.OpenAddress,     // nats://host:4222
//	}
//	transport, closeTransport, err := schemes.Open(ctx, *to, address.Config{Store: store})
//
// A program names the transports that it is to know, and only their drivers become part of it. Each has an OpenAddress,
// whose comment says what its addresses are like; a transport of your own is an Opener.
//
// What such a pipeline needs besides is a place for the topics between its stages where the transport has no positions:
// give the store's own, transport/embedded, as framework.Config.Internal. The engine takes the transport instead where
// several processes share the work.
//
// # Limits
//
// A store belongs to its topics: another address needs another store.
package address

// Package plain is the plain Watermill face of our partitioned topics: message.Publisher and
// message.Subscriber, one message at a time for each partition, with acknowledgement, redelivery and
// consumer groups. A transport adds a Backend.
//
// The members of a group share the partitions by passing a token for each: who holds it delivers one
// message, waits for its acknowledgement, stores the new position and passes the token on. So a
// partition has one message out, whatever the number of members, its order holds across members, and a
// member that goes away leaves nothing to hand over. The price, about a microsecond a message, does not
// matter here: the engine reads batches.
package plain

// Package orders is the data of the comparison: what goes in, and what has to come out.
//
// Everything follows from numbers: order i of n is always the same order, its payment the same payment, and what has to
// come out for it can be computed from i alone. So nothing has to be kept to know whether outputs are right: a Tally is
// one bit for each order.
//
// There are two workloads. W1 decodes an order of about 300 bytes of JSON, keeps about half, adds a rate by currency
// and a tier by customer from tables in memory, and encodes. W2 joins orders with their payments through the histories
// of their customers: 50,000 customers for a million orders, and as many for each order at other sizes, so that
// histories are equally long; a payment is 0 to 20,000 records away from its order, in either direction; each order is
// confirmed exactly once.
package orders

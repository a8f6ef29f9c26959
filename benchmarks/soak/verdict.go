package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// missing says what has not come yet, a line for each topic. Empty: all is there.
func (c *checker) missing() []string {
	var m lacks
	undecided := 0
	for _, id := range slices.Sorted(maps.Keys(c.in.payments)) {
		o := c.in.orders[id]
		m.unless(c.numbered.orders[id], numberedTopic, o)
		m.unless(c.items[item{id, 0}] && c.items[item{id, 1}], itemsTopic, o)
		if _, decided := c.decided[id]; !decided {
			if !c.faults.lateJoin[id] {
				undecided++
				m.unless(undecided <= len(c.faults.lateTimers), decidedTopic, o) // a late timer does not say whose it is
			}
			continue
		}
		m.unless(c.products.orders[id], productsTopic, o)
		m.unless(c.totals.orders[id], totalsTopic, o)
		m.unless(c.windows[id] || c.faults.lateWindow[id], windowsTopic, o)
		m.unless(c.expired[id] || c.faults.lateExpiry[id], expiredTopic, o)
	}
	for p := range c.in.pairs {
		a, b := c.in.orders[p.A], c.in.orders[p.B]
		excused := c.faults.latePairs[p.A] || c.faults.latePairs[p.B] || !c.s.parks() && (a.mayChange() || b.mayChange())
		m.unless(c.pairs[p] || excused, pairsTopic, a, b)
	}
	return m.lines()
}

// lacks are what is missing, by topic.
type lacks map[string][]string

func (m *lacks) unless(there bool, topic string, orders ...*order) {
	if there {
		return
	}
	if *m == nil {
		*m = lacks{}
	}
	var names []string
	for _, o := range orders {
		names = append(names, strings.TrimSuffix(o.ID+" "+o.Kind, " "))
	}
	(*m)[topic] = append((*m)[topic], strings.Join(names, " with "))
}

func (m lacks) lines() (lines []string) {
	const shown = 4
	for _, topic := range slices.Sorted(maps.Keys(m)) {
		all := slices.Sorted(slices.Values(m[topic]))
		lines = append(lines, fmt.Sprintf("%d of %s: %s", len(all), topic, strings.Join(all[:min(shown, len(all))], ", ")))
	}
	return lines
}

// settled tells whether all that does not fail has come, and the rest has failed: what fails may be mended now.
func (c *checker) settled() bool {
	for id := range c.in.payments {
		if o := c.in.orders[id]; o.mayChange() {
			if !c.faults.failed[id] && !c.numbered.orders[id] {
				return false
			}
			continue
		}
		_, decided := c.decided[id]
		if !c.numbered.orders[id] || !decided && !c.faults.lateJoin[id] {
			return false
		}
	}
	return true
}

// verdict returns all that is wrong when everything has ended.
func (c *checker) verdict() []string {
	for customer, all := range c.in.customers {
		c.checkOrder(customer, all)
	}
	for id, payment := range c.decided {
		c.checkDecision(id, payment)
	}
	for id := range c.numbered.orders {
		if _, ok := c.in.payments[id]; !ok {
			c.problem("SURPLUS %s: order %s is not kept", numberedTopic, id)
		}
	}
	for p := range c.pairs {
		a, b := c.in.orders[p.A], c.in.orders[p.B]
		if a == nil || b == nil || !c.in.pairs[p] && (a.Kind != lateKind || b.Kind != lateKind) {
			c.problem("SURPLUS %s: %v", pairsTopic, p)
		}
	}
	for id := range c.faults.lateWindow {
		if c.windows[id] {
			c.problem("TWICE %s: order %s is in a window, and late for it", windowsTopic, id)
		}
		if o := c.in.orders[id]; o != nil && o.Kind == goodKind && !c.s.parks() {
			c.problem("LATE at windows: order %s came in time", id)
		}
	}
	for id := range c.faults.lateExpiry {
		if c.expired[id] {
			c.problem("TWICE %s: order %s has expired, and is late for it", expiredTopic, id)
		}
	}
	for _, line := range c.missing() {
		c.problem("MISSING %s", line)
	}
	return c.problems
}

// checkOrder compares the orders of a customer as they came with how they were fed. What fails is overtaken where keys are not
// parked.
func (c *checker) checkOrder(customer string, fed []string) {
	came := c.numbered.keys[customer]
	if !c.s.parks() {
		overtaken := func(id string) bool { o := c.in.orders[id]; return o != nil && o.mayChange() }
		fed, came = slices.DeleteFunc(slices.Clone(fed), overtaken), slices.DeleteFunc(slices.Clone(came), overtaken)
	}
	for i, id := range fed {
		switch {
		case i >= len(came):
			return // it is missing, which is told elsewhere
		case came[i] != id:
			c.problem("ORDER of %s: after %d orders %s was to come, and %s came", customer, i, id, came[i])
			return
		}
	}
}

func (c *checker) checkDecision(id, payment string) {
	want, ok := c.in.payments[id]
	if !ok {
		c.problem("SURPLUS %s: order %s is not kept", decidedTopic, id)
		return
	}
	if want == payment || c.in.orders[id].mayChange() && !c.s.parks() {
		return
	}
	if c.s.Hold > 0 && payment == "" { // the payment was not held until the order was resubmitted
		return
	}
	c.problem("WRONG %s: order %s has payment %q, and is to have %q", decidedTopic, id, payment, want)
}

package pgtail

import (
	"fmt"
)

// LSN is a place in the log of a PostgreSQL server, written as "16/B374D848".
type LSN uint64

func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint32(l)) }

func parseLSN(text string) (LSN, error) {
	var high, low uint32
	if _, err := fmt.Sscanf(text, "%X/%X", &high, &low); err != nil {
		return 0, fmt.Errorf("%q is no place in a log: %w", text, err)
	}
	return LSN(uint64(high)<<32 | uint64(low)), nil
}

// progress tells how far the log is done: up to the end of the last transaction of which, and of all before which, all
// rows are. Transactions come one after the other, their rows are done in any order.
type progress struct {
	open []*transaction // the first is not done; the last may still be read
	rows map[int64]*transaction
	done LSN
}

type transaction struct {
	end  LSN // 0: not read to its end
	left int // rows that are not done
}

// begin begins a transaction.
func (p *progress) begin() { p.open = append(p.open, new(transaction)) }

// add adds a row to the last transaction.
func (p *progress) add(id int64) {
	t := p.open[len(p.open)-1]
	t.left++
	if p.rows == nil {
		p.rows = map[int64]*transaction{}
	}
	p.rows[id] = t
}

// commit ends the last transaction.
func (p *progress) commit(end LSN) {
	p.open[len(p.open)-1].end = end
	p.advance()
}

func (p *progress) finish(id int64) {
	if t, ok := p.rows[id]; ok {
		delete(p.rows, id)
		t.left--
	}
}

// advance moves done, as far as it goes.
func (p *progress) advance() {
	n := 0
	for n < len(p.open) && p.open[n].end != 0 && p.open[n].left == 0 {
		p.done = max(p.done, p.open[n].end)
		n++
	}
	clear(p.open[:n])
	if p.open = p.open[n:]; len(p.open) == 0 {
		p.open = nil
	}
}

// idle takes note that there is nothing for this table in the log up to a place, unless a transaction is being read.
func (p *progress) idle(place LSN) bool {
	if n := len(p.open); n > 0 {
		return p.open[n-1].end != 0
	}
	p.done = max(p.done, place)
	return true
}

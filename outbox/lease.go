package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"
)

// lease keeps a relay's slots: an owner, an epoch and an end for each, in the table's rows for it, by the database's
// clock.
//
// Every third of the lease it renews what it has, counts the relays that are alive, takes free slots up to its share,
// and marks those over its share as leaving. A slot that leaves is given up when the relay has nothing of it in memory.
// A relay that reads the log has all slots or none, see shareOf.
//
// When the lease could not be renewed in time it is over, by this process's own clock and with a margin, whatever the
// database says: the relay then stops sending at once, also when it has been stopped as a process and goes on. A lease
// does not fence the broker: what is being sent at that moment may arrive after the next owner's, and is then a duplicate
// of what that one sends or has sent, since a row is only forgotten when it was sent.
type lease struct {
	table *Table
	db    *sql.DB
	owner string
	term  time.Duration

	lock    sync.Mutex
	epochs  map[int]int64 // by slot: what is owned
	leaving map[int]bool  // owned, no longer wanted
	left    map[int]bool  // leaving, and nothing of it in memory any more
	until   time.Time

	hurry   chan struct{} // has an element when a tick is wanted before its time
	changed chan struct{} // has an element when epochs, leaving or until may have changed
}

func newLease(t *Table, db *sql.DB, owner string, term time.Duration) *lease {
	return &lease{
		table: t, db: db, owner: owner, term: term,
		epochs: map[int]int64{}, leaving: map[int]bool{}, left: map[int]bool{},
		hurry: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
}

// held returns the epochs of the slots that are owned and not leaving, those that are leaving, and until when it holds.
func (l *lease) held() (epochs map[int]int64, leaving []int, until time.Time) {
	l.lock.Lock()
	defer l.lock.Unlock()
	epochs = make(map[int]int64, len(l.epochs))
	for slot, epoch := range l.epochs {
		if l.leaving[slot] {
			leaving = append(leaving, slot)
			continue
		}
		epochs[slot] = epoch
	}
	return epochs, leaving, l.until
}

// epoch is a slot's while it is owned.
func (l *lease) epoch(slot int) (epoch int64, owned bool) {
	l.lock.Lock()
	defer l.lock.Unlock()
	epoch, owned = l.epochs[slot]
	return epoch, owned
}

// giveUp says that nothing of a leaving slot is in memory.
func (l *lease) giveUp(slot int) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if l.leaving[slot] && !l.left[slot] {
		l.left[slot] = true
		signal(l.hurry)
	}
}

// run renews the lease until ctx is done. A tick that fails is tried again soon; the lease ends by itself meanwhile.
func (l *lease) run(ctx context.Context, failed func(error)) {
	for wait := l.term / 3; ; {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-l.hurry:
		case <-timer.C:
		}
		timer.Stop()
		wait = l.term / 3
		ticking, cancel := context.WithTimeout(ctx, l.term)
		if err := l.tick(ticking); err != nil && ctx.Err() == nil {
			failed(err)
			wait = l.term / 10
		}
		cancel()
	}
}

// signal puts an element into a channel of one, unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// slotRow is a slot as it is in the database.
type slotRow struct {
	owner   string
	epoch   int64
	expired bool
}

// tick renews, gives up and takes slots, in one short transaction.
func (l *lease) tick(ctx context.Context) error {
	began := time.Now()
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	owners, err := l.signIn(ctx, tx)
	if err != nil {
		return err
	}
	staying, left := l.known()
	if err := l.release(ctx, tx, left); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, l.table.sql("UPDATE NAME_slots SET expires_at = NOW_MILLIS + ? WHERE owner = ?"), l.term.Milliseconds(), l.owner); err != nil {
		return err
	}
	rows, err := l.read(ctx, tx)
	if err != nil {
		return err
	}
	share := shareOf(l.owner, owners, rows)
	owned, err := l.take(ctx, tx, rows, staying, share)
	if err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	l.settle(owned, share, began)
	return nil
}

// known returns what is owned, without and with what is to be given up.
func (l *lease) known() (staying, left map[int]int64) {
	l.lock.Lock()
	defer l.lock.Unlock()
	staying, left = map[int]int64{}, map[int]int64{}
	for slot, epoch := range l.epochs {
		if l.left[slot] {
			left[slot] = epoch
		} else {
			staying[slot] = epoch
		}
	}
	return staying, left
}

// release gives slots back, unless another has them by now.
func (l *lease) release(ctx context.Context, tx *sql.Tx, epochs map[int]int64) error {
	for slot := range Slots {
		epoch, ok := epochs[slot]
		if !ok {
			continue
		}
		if _, err := tx.ExecContext(ctx, l.table.sql("UPDATE NAME_slots SET owner = '', expires_at = 0 WHERE slot = ? AND owner = ? AND epoch = ?"),
			slot, l.owner, epoch); err != nil {
			return err
		}
	}
	return nil
}

// signIn says that this relay is alive, and returns who is.
func (l *lease) signIn(ctx context.Context, tx *sql.Tx) (owners []string, err error) {
	if _, err := tx.ExecContext(ctx, l.table.sql("DELETE FROM NAME_relays WHERE owner = ? OR expires_at < NOW_MILLIS"), l.owner); err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, l.table.sql("INSERT INTO NAME_relays (owner, expires_at) VALUES (?, NOW_MILLIS + ?)"), l.owner, l.term.Milliseconds()); err != nil {
		return nil, err
	}
	rows, err := tx.QueryContext(ctx, l.table.sql("SELECT owner FROM NAME_relays"))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var owner string
		if err := rows.Scan(&owner); err != nil {
			return nil, err
		}
		owners = append(owners, owner)
	}
	return owners, rows.Err()
}

// logOwner is what the names of relays that read the log begin with in the leases.
const logOwner = "log/"

// shareOf is how many slots a relay is to have: as many as the others, but all or none where one reads the log, since
// that has the events of all slots. Of several such it is the one that has most already.
func shareOf(owner string, owners []string, slots [Slots]slotRow) int {
	leader, most := "", -1
	for _, o := range owners {
		if !strings.HasPrefix(o, logOwner) {
			continue
		}
		has := 0
		for _, s := range slots {
			if s.owner == o && !s.expired {
				has++
			}
		}
		if has > most || has == most && o < leader {
			leader, most = o, has
		}
	}
	switch leader {
	case "":
		return (Slots + len(owners) - 1) / max(1, len(owners))
	case owner:
		return Slots
	default:
		return 0
	}
}

func (l *lease) read(ctx context.Context, tx *sql.Tx) (slots [Slots]slotRow, err error) {
	rows, err := tx.QueryContext(ctx, l.table.sql("SELECT slot, owner, epoch, CASE WHEN expires_at < NOW_MILLIS THEN 1 ELSE 0 END FROM NAME_slots ORDER BY slot"))
	if err != nil {
		return slots, err
	}
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		var slot, expired int
		var row slotRow
		if err := rows.Scan(&slot, &row.owner, &row.epoch, &expired); err != nil {
			return slots, err
		}
		if slot < 0 || slot >= Slots {
			return slots, fmt.Errorf("table %s_slots has a slot %d: there are 0 to %d", l.table.Name(), slot, Slots-1)
		}
		row.expired = expired == 1
		slots[slot] = row
	}
	if err := rows.Err(); err != nil {
		return slots, err
	}
	if n != Slots {
		return slots, fmt.Errorf("table %s_slots has %d rows, not %d: make them again with %s", l.table.Name(), n, Slots, l.table.schema.Create)
	}
	return slots, nil
}

// take returns what is owned after free slots were taken up to the share. A slot that is in this relay's name but not
// known to it is of a run that was killed.
func (l *lease) take(ctx context.Context, tx *sql.Tx, slots [Slots]slotRow, known map[int]int64, share int) (map[int]int64, error) {
	owned := map[int]int64{}
	for slot, row := range slots {
		if epoch, ok := known[slot]; ok && row.owner == l.owner && row.epoch == epoch {
			owned[slot] = epoch
		}
	}
	for slot, row := range slots {
		_, have := owned[slot]
		if have || len(owned) >= share || row.owner != "" && row.owner != l.owner && !row.expired {
			continue
		}
		result, err := tx.ExecContext(ctx, l.table.sql(
			"UPDATE NAME_slots SET owner = ?, epoch = epoch + 1, expires_at = NOW_MILLIS + ? WHERE slot = ? AND epoch = ?"),
			l.owner, l.term.Milliseconds(), slot, row.epoch)
		if err != nil {
			return nil, err
		}
		if n, err := result.RowsAffected(); err != nil {
			return nil, err
		} else if n == 1 { // else another relay was first
			owned[slot] = row.epoch + 1
		}
	}
	return owned, nil
}

// settle takes over what a tick has come to.
func (l *lease) settle(owned map[int]int64, share int, began time.Time) {
	l.lock.Lock()
	defer l.lock.Unlock()
	before := l.epochs
	l.epochs = owned
	l.until = began.Add(l.term - l.term/10)
	for slot := range l.leaving {
		if epoch, ok := owned[slot]; !ok || epoch != before[slot] {
			delete(l.leaving, slot)
			delete(l.left, slot)
		}
	}
	staying := len(owned) - len(l.leaving)
	for slot := range Slots {
		if _, ok := owned[slot]; !ok {
			continue
		}
		switch {
		case !l.leaving[slot] && staying > share:
			l.leaving[slot] = true
			staying--
		case l.leaving[slot] && !l.left[slot] && staying < share: // a relay has gone again
			delete(l.leaving, slot)
			staying++
		}
	}
	signal(l.changed)
}

// end gives all slots back, so that others need not wait for them.
func (l *lease) end(ctx context.Context) error {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	staying, left := l.known()
	maps.Copy(staying, left)
	if err := l.release(ctx, tx, staying); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, l.table.sql("DELETE FROM NAME_relays WHERE owner = ?"), l.owner); err != nil {
		return err
	}
	return tx.Commit()
}

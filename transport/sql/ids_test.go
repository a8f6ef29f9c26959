package sql

import (
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// kept is a publisher that keeps what it is given.
type kept struct{ messages []*message.Message }

func (k *kept) Publish(_ string, messages ...*message.Message) error {
	k.messages = append(k.messages, messages...)
	return nil
}

func (k *kept) Close() error { return nil }

// A UUID fits its column, whatever the id: one that is sent again has the same, others have others, and readers see the id.
func TestShortIDs(t *testing.T) {
	var all kept
	long := strings.Repeat("ö", 37)
	for _, id := range []string{strings.Repeat("ö", 36), long, long, long + "!"} {
		if err := (shortIDs{&all}).Publish("t", message.NewMessage(id, nil)); err != nil {
			t.Fatal(err)
		}
		sent := all.messages[len(all.messages)-1]
		if got := framework.FromMessage(sent).ID; got != id {
			t.Errorf("%s is read as %s", id, got)
		}
	}
	ids := all.messages
	if ids[0].UUID != strings.Repeat("ö", 36) || len(ids[1].UUID) != 36 || ids[1].UUID != ids[2].UUID || ids[1].UUID == ids[3].UUID {
		t.Errorf("UUIDs %s, %s, %s, %s", ids[0].UUID, ids[1].UUID, ids[2].UUID, ids[3].UUID)
	}
}
